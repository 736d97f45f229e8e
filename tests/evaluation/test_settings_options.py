"""Every option of an evaluation changes its result; the batch size changes nothing."""

from pathlib import Path
from typing import Any

import pytest
from reference import prototype_classifier
from torch import Tensor, nn
from toy_evaluation import ATTACKED, DATA, FAST, Curved, Records, models, rows_of, run, timeless

from robust_student.evaluation.settings import EvaluationSettings, MaskingSettings
from robust_student.results.rows import SUMMARY
from robust_student.runtime.files import read_json

OTHERS: dict[str, Any] = {
    "examples": 29,
    "attack_examples": 6,
    "snr_db": (3.0, -4.0),
    "noises": ("uniform", "impulse"),
    "pgd_linf": (0.05, 0.2),
    "pgd_l2": (0.5,),
    "pgd_steps": 1,
    "attacks": ("square",),
    "autoattack": "none",
    "autoattack_norm": "l2",
    "autoattack_radius": 0.05,
    "masking": MaskingSettings(examples=5, steps=(1, 4)),
    "baseline": "teacher",
    "teacher": "new",
    "seed": 1,
}


def test_the_list_of_options_is_complete() -> None:
    assert set(OTHERS) == set(EvaluationSettings.model_fields) - {
        "batch_size",
        "device",
        "skip_certified",
        "corruptions",
        "every_budget",  # below
    }


class Wavy(nn.Module):
    """Rises and falls many times on the way from an input to the end of a large ball."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = prototype_classifier(DATA)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.inner((15 * inputs).sin() * 0.5 + 0.5)


def test_attacking_every_budget_changes_the_result_of_a_model_that_misleads_large_steps(tmp_path: Path) -> None:
    settings = FAST.model_copy(update={"snr_db": (), "pgd_linf": (0.02, 0.1, 0.4), "pgd_l2": (), "pgd_steps": 2})

    def standing(every: bool) -> tuple[int, Any]:
        output = tmp_path / str(every)
        records = run(output, settings.model_copy(update={"every_budget": every}), subjects={"wavy": Wavy()})
        verdict = next(record["verdict"] for record in records if record["verdict"])
        return sum(row["correct"] for row in rows_of(output, perturbation="pgd_linf", setting=0.1)), verdict

    (few, verdict), (every, _) = standing(False), standing(True)
    assert few > every and verdict["fired"]["budget_rise"] == "FAIL"  # which says so


@pytest.mark.parametrize("option", sorted(name for name in OTHERS if not name.startswith("autoattack")))
def test_every_option_changes_the_result(option: str, finished: Path, tmp_path: Path) -> None:
    records = run(tmp_path / "out", FAST.model_copy(update={option: OTHERS[option]}))
    assert timeless(records) != timeless(read_json(finished / SUMMARY))


@pytest.mark.parametrize("option", sorted(name for name in OTHERS if name.startswith("autoattack")))
def test_every_option_of_autoattack_changes_what_it_finds(option: str, attacked: Path, tmp_path: Path) -> None:
    def of_autoattack(records: Records) -> Records:
        matching = [r for r in records if r["model"] == "kd" and r["perturbation"].startswith("autoattack")]
        return [{name: value for name, value in record.items() if name != "verdict"} for record in matching]

    records = run(
        tmp_path / "out", ATTACKED.model_copy(update={option: OTHERS[option]}), subjects={"kd": models()["kd"]}
    )
    usual = of_autoattack(read_json(attacked / SUMMARY))
    assert (
        of_autoattack(records) != usual
        and of_autoattack(run(tmp_path / "usual", ATTACKED, subjects={"kd": Curved()})) == usual
    )


@pytest.mark.parametrize("size", [2, 1000])
def test_the_batch_size_changes_nothing_outside_autoattack(size: int, finished: Path, tmp_path: Path) -> None:
    records = timeless(run(tmp_path / "out", FAST.model_copy(update={"batch_size": size})))
    expected = timeless(read_json(finished / SUMMARY))
    names = ("model", "perturbation", "setting", "metric", "n")
    assert [[r[name] for name in names] for r in records] == [[r[name] for name in names] for r in expected]
    assert [r["value"] for r in records] == pytest.approx([r["value"] for r in expected], rel=1e-4, abs=1e-6)
    noise = {"perturbation": "gaussian_snr_db"}
    scores = ("confidence", "nll", "brier", "value")  # the last, the realised ratio, is written with four decimals
    small_batches, usual = (
        sorted(rows_of(folder, **noise), key=lambda row: (row["model"], row["setting"], row["index"]))
        for folder in (tmp_path / "out", finished)
    )
    for record, its in zip(small_batches, usual, strict=True):
        assert {k: v for k, v in record.items() if k not in scores} == {k: v for k, v in its.items() if k not in scores}
        assert [record[k] for k in scores] == pytest.approx([its[k] for k in scores], rel=1e-3, abs=1e-6)


def test_each_suite_of_autoattack_changes_what_is_measured(attacked: Path, tmp_path: Path) -> None:
    assert not rows_of(attacked, perturbation="masking_square")
    run(tmp_path / "out", ATTACKED.model_copy(update={"autoattack": "screening"}))
    assert {row["setting"] for row in rows_of(tmp_path / "out", perturbation="masking_square")} == {0.4}
