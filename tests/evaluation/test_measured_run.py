"""How far a run is counts passes, not rows: a row under attack takes hundreds of them, a row under noise one."""

from pathlib import Path
from types import TracebackType

import pytest
from reference import prototype_classifier
from toy_evaluation import DATA, FAST, run

from robust_student.evaluation import measured_run
from robust_student.evaluation.row_store import Shard
from robust_student.evaluation.settings import MaskingSettings

SETTINGS = FAST.model_copy(
    update={"pgd_linf": (0.05, 0.1), "pgd_l2": (), "snr_db": (0.0,), "masking": MaskingSettings(examples=9, steps=(4,))}
)
COSTS = {
    "m: none": 30,
    "m: gaussian_snr_db 0": 30,
    "m: estimated_decision_radius_linf": 12 * 20,
    "m: estimated_decision_radius_l2": 12 * 20,
    "m: pgd_linf 0.05, 0.1": 12 * 3 * 6,
    "m: pgd_linf 1": 9 * 6,
    "m: masking_gradient": 9,
    "m: masking_repetition": 9,
    "m: masking_alone": 9,
    "m: masking_outputs": 9,
    "m: masking_steps 4": 9 * 4,
    "m: masking_cross_entropy 4": 9 * 4,
    "m: masking_rescaled 4": 9 * 4,
    "m: masking_budgets_linf 0.05": 9 * 6,
}
"""What is shown -> examples times passes of each: three for a step and its gradient, by a third of the examples."""


class Watch:
    """Stands for `Advance` and notes what it is told."""

    seen: dict[str, int]
    total: int
    done: int

    def __init__(self, total: int, done: int = 0) -> None:
        Watch.total, Watch.done, Watch.seen, self.before = total, done, {}, done

    def __enter__(self) -> "Watch":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None: ...

    def update(self, done: int, what: str) -> None:
        Watch.seen[what] = Watch.seen.get(what, 0) + done - self.before
        self.before = done


def watch(output: Path, monkeypatch: pytest.MonkeyPatch, shard: Shard | None = None) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(measured_run, "Advance", Watch)
        run(output, SETTINGS, subjects={"m": prototype_classifier(DATA)}, shard=shard)


def test_every_measurement_counts_by_its_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watch(tmp_path / "out", monkeypatch)
    assert Watch.seen == COSTS
    assert sum(COSTS.values()) == Watch.total and Watch.done == 0


def test_what_is_there_already_is_done_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = sum(COSTS.values())
    watch(tmp_path / "out", monkeypatch, shard=Shard(0, 3))
    share = Watch.total
    assert 0 < share < whole and Watch.done == 0  # a shard knows its own part
    watch(tmp_path / "out", monkeypatch)
    assert Watch.total == whole and Watch.done == share
