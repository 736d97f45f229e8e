import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from reference import message_of, prototype_classifier, toy_data
from torch import Tensor, nn

from robust_student.models import run_directory
from robust_student.models.model import Model, as_model
from robust_student.models.run_directory import SEARCH, TRIES, load, save
from robust_student.objectives.adaad import AdaADMethod
from robust_student.objectives.methods import METHODS
from robust_student.objectives.settings import ObjectiveSettings
from robust_student.runtime.files import read_json, write_json
from robust_student.training import search as searching
from robust_student.training.search import search
from robust_student.training.settings import DistillSettings, SelectionSettings, TrainingSettings
from robust_student.training.train import Trained

DATA = toy_data(noise=0.4)
TRAINING = TrainingSettings(
    epochs=3, batch_size=16, device="cpu", selection=SelectionSettings(steps=2, snr_db=(0.0,), radius=0.05)
)
BASE = METHODS["secant"].model_copy(update={"radius": 0.2})
SETTINGS = DistillSettings(training=TRAINING, objective=BASE)
BASELINE = (0.90, 0.20)
"""(clean accuracy, selection) of plain distillation."""


class Planned:
    """Stands for `distill`: gives planned accuracies, remembers what it was asked, and stops where told."""

    def __init__(self, *tries: tuple[float, float]) -> None:
        self.tries, self.asked = list(tries), list[DistillSettings]()
        self.stop_at: int | None = None
        self.outputs = list[Path | None]()

    def __call__(
        self, teacher: Model, student: str, data: Any, settings: DistillSettings, *, output: Path | None = None
    ) -> Trained:
        if self.stop_at == len(self.asked):
            if output is not None:
                output.mkdir(parents=True, exist_ok=True)
                write_json(output / run_directory.TRAINING, {})
            raise KeyboardInterrupt
        self.asked.append(settings)
        self.outputs.append(output)
        plain = settings.objective.strength == 0
        clean, selection = BASELINE if plain else self.tries[(len(self.asked) - 2) % len(self.tries)]
        model = as_model(student, data)
        if output is not None:
            output.mkdir(parents=True, exist_ok=True)
            save(model, output)
        return Trained(model, [{"validation": {"clean": clean, "selection": selection}}], 1)

    @property
    def steps(self) -> list[tuple[float | None, float]]:
        """(radius, weight) of each call."""
        return [(s.objective.radius, s.objective.secant.weight) for s in self.asked]


@pytest.fixture
def plan(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Planned]:
    """Replace `distill` by a plan of (clean, selection) per try."""

    def install(*tries: tuple[float, float]) -> Planned:
        planned = Planned(*tries)
        monkeypatch.setattr(searching, "distill", planned)
        return planned

    return install


def run(
    output: Path, *, tries: int = 4, drop: float = 2.0, settings: DistillSettings = SETTINGS, student: str = "linear"
) -> Trained:
    teacher = as_model(prototype_classifier(DATA), DATA)
    return search(teacher, student, DATA, settings, max_accuracy_drop=drop, tries=tries, output=output)


Plan = Callable[..., Planned]


def test_the_accepted_try_of_best_selection_is_trained_in_full(plan: Plan, tmp_path: Path) -> None:
    planned = plan((0.89, 0.5), (0.87, 0.9), (0.885, 0.7), (0.9, 0.6))
    trained = run(tmp_path / "out")
    record = read_json(tmp_path / "out" / SEARCH)
    assert [attempt["accepted"] for attempt in record["tries"]] == [True, False, True, True] and record["chosen"] == 2
    assert planned.steps[-1] == planned.steps[1 + 2] and trained.model.search == record
    assert [s.training.epochs for s in planned.asked] == [2] * 5 + [3]
    tries = tmp_path / "out" / TRIES
    assert planned.outputs == [tries / name for name in ("plain", "0", "1", "2", "3")] + [tmp_path / "out"]
    assert not tries.exists()
    assert load(tmp_path / "out").search == record


def test_the_record_holds_what_each_try_used_and_reached(plan: Plan, tmp_path: Path) -> None:
    planned = plan((0.89, 0.5), (0.88, 0.6))
    run(tmp_path / "out")
    record = read_json(tmp_path / "out" / SEARCH)
    assert [(attempt["radius"], attempt["weight"]) for attempt in record["tries"]] == planned.steps[1:-1]
    assert [attempt["validation"]["clean"] for attempt in record["tries"]] == [0.89, 0.88, 0.89, 0.88]
    assert record["baseline"] == {"clean": 0.90, "selection": 0.20} and record["max_accuracy_drop"] == 0.02


def test_the_first_try_is_the_settings_and_the_baseline_is_plain_distillation(plan: Plan, tmp_path: Path) -> None:
    planned = plan((0.9, 0.5))
    run(tmp_path / "out")
    assert planned.asked[0].objective.secant.weight == 0 and planned.asked[0].objective.norm == BASE.norm
    assert planned.asked[0].objective.distillation == BASE.distillation
    assert planned.asked[1].objective == BASE


def test_the_tries_are_different_multiples_of_radius_and_weight_and_twelve_at_most(plan: Plan, tmp_path: Path) -> None:
    planned = plan((0.9, 0.5))
    run(tmp_path / "out", tries=50)
    factors = {(round(radius / 0.2, 9), round(weight / 5.0, 9)) for radius, weight in planned.steps[1:-1] if radius}
    assert len(planned.steps) == 14 and factors == {(r, w) for r in (1, 0.5, 1.5, 2) for w in (1, 0.4, 2.5)}


def test_both_gradient_terms_are_scaled_together(plan: Plan, tmp_path: Path) -> None:
    planned = plan((0.9, 0.5))
    both = DistillSettings(training=TRAINING, objective=METHODS["secant-exact"])
    run(tmp_path / "out", settings=both, tries=12)
    ratios = {s.objective.gradient.weight / s.objective.secant.weight for s in planned.asked[1:]}
    assert ratios == {2.0} and len({s.objective.secant.weight for s in planned.asked[1:]}) > 1
    assert planned.asked[0].objective.gradient.weight == 0


@pytest.mark.parametrize(
    ("method", "strengths"),
    [
        ("certified", {2.0, 0.8, 5.0}),
        ("trades", {6.0, 2.4, 15.0}),
        ("adaad", {1.0}),
        ("adaad, share 0.5", {0.5, 2 / 7, 5 / 7}),
    ],
)
def test_every_method_against_perturbations_can_be_searched(
    method: str, strengths: set[float], plan: Plan, tmp_path: Path
) -> None:
    planned = plan((0.9, 0.5))
    objective = AdaADMethod.parse({"adaad": {"share": 0.5}}) if "," in method else METHODS[method]
    run(tmp_path / "out", settings=DistillSettings(training=TRAINING, objective=objective), tries=12)
    plain, *tried, _ = [s.objective for s in planned.asked]
    assert {term.name for term in plain.terms() if term.weight > 0} == {"distillation"}
    assert plain.terms()[0].weight == 1.0 and plain.distillation == objective.distillation
    candidates = {(o.radius, round(o.strength, 9)) for o in tried}
    assert {radius for radius, _ in candidates} == {0.1, 0.05, 0.15000000000000002, 0.2}
    assert {strength for _, strength in candidates} == {round(strength, 9) for strength in strengths}
    assert len(tried) == len(candidates) == 4 * len(strengths)
    record = read_json(tmp_path / "out" / SEARCH)
    assert [attempt["weight"] for attempt in record["tries"]] == [o.strength for o in tried]


def test_an_unset_radius_starts_at_the_default_of_the_norm(plan: Plan, tmp_path: Path) -> None:
    planned = plan((0.9, 0.5))
    run(tmp_path / "out", tries=1, settings=DistillSettings(training=TRAINING, objective=METHODS["secant"]))
    assert planned.steps[1][0] == pytest.approx(0.1)


@pytest.mark.parametrize(("clean", "accepted"), [(0.88, True), (0.8799, False), (0.95, True)])
def test_a_try_may_lose_exactly_the_allowed_accuracy(clean: float, accepted: bool, plan: Plan, tmp_path: Path) -> None:
    plan((clean, 0.5), (0.9, 0.1))
    run(tmp_path / "out", tries=2)
    assert read_json(tmp_path / "out" / SEARCH)["tries"][0]["accepted"] is accepted


@pytest.mark.parametrize("right", [57, 83, 90, 94, 97, 100])
@pytest.mark.parametrize("points", [1, 2, 3])
def test_losing_exactly_the_allowed_number_of_examples_is_accepted(
    right: int, points: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(globals(), "BASELINE", (right / 100, 0.2))
    monkeypatch.setattr(searching, "distill", Planned(((right - points) / 100, 0.5)))
    run(tmp_path / "out", tries=1, drop=float(points))


def test_without_an_accepted_try_the_record_stays_and_the_smallest_loss_is_named(plan: Plan, tmp_path: Path) -> None:
    plan((0.5, 0.9), (0.87, 0.1))
    message = message_of(lambda: run(tmp_path / "out"))
    assert "2 points" in message and "3.00" in message
    record = read_json(tmp_path / "out" / SEARCH)
    assert len(record["tries"]) == 4 and record["chosen"] is None
    assert {path.name for path in (tmp_path / "out").iterdir()} == {SEARCH}


def test_more_tries_go_on_where_the_search_stopped(plan: Plan, tmp_path: Path) -> None:
    first = plan((0.5, 0.9))
    message_of(lambda: run(tmp_path / "out", tries=3))
    second = plan((0.5, 0.9), (0.9, 0.4))
    run(tmp_path / "out", tries=5)
    asked = [*first.steps, *second.steps]
    assert len(first.steps) == 4 and len(second.steps) == 3
    assert len(set(asked[1:6])) == 5 and asked[-1] in asked[1:6]


@pytest.mark.parametrize("stop", [0, 1, 3, 5])
def test_an_interrupted_search_repeats_no_try_and_ends_the_same(stop: int, plan: Plan, tmp_path: Path) -> None:
    tries = [(0.89, 0.5), (0.87, 0.9), (0.885, 0.7), (0.9, 0.6)]
    whole = plan(*tries)
    run(tmp_path / "whole")
    broken = plan(*tries)
    broken.stop_at = stop
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "out")
    broken.stop_at = None
    run(tmp_path / "out")
    assert broken.steps == whole.steps
    assert read_json(tmp_path / "out" / SEARCH) == read_json(tmp_path / "whole" / SEARCH)
    assert load(tmp_path / "out").search is not None


OTHERS: dict[str, Callable[[Path], Trained]] = {
    "drop": lambda out: run(out, drop=3.0),
    "student": lambda out: run(out, student="mlp:3"),
    "seed": lambda out: run(
        out, settings=SETTINGS.model_copy(update={"training": TRAINING.model_copy(update={"seed": 1})})
    ),
    "radius": lambda out: run(
        out, settings=SETTINGS.model_copy(update={"objective": BASE.model_copy(update={"radius": 0.1})})
    ),
}


@pytest.mark.parametrize("what", sorted(OTHERS))
def test_the_record_of_another_search_is_refused_and_left_alone(what: str, plan: Plan, tmp_path: Path) -> None:
    planned = plan((0.5, 0.5))
    message_of(lambda: run(tmp_path / "out"))
    before, asked = (tmp_path / "out" / SEARCH).read_bytes(), len(planned.asked)
    message = message_of(lambda: OTHERS[what](tmp_path / "out"))
    assert "holds a search" in message and f"{what}: " in message and " there, " in message
    assert (tmp_path / "out" / SEARCH).read_bytes() == before and len(planned.asked) == asked


@pytest.mark.parametrize("whose", ["student", "teacher"])
def test_changed_code_or_weights_are_another_search(
    whose: str, plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    layers = "nn.Flatten(), nn.Linear(16, num_classes)"
    code = f"from torch import nn\n\ndef net(num_classes):\n    return nn.Sequential({layers})\n"
    for name in ("student.py", "teacher.py"):
        Path(name).write_text(code)
    torch.manual_seed(0)
    weights = as_model("teacher.py:net", DATA).state_dict()
    plan((0.5, 0.5))

    def attempt(factor: float = 1.0) -> None:
        teacher = as_model("teacher.py:net", DATA)
        teacher.load_state_dict({name: factor * tensor for name, tensor in weights.items()})
        search(teacher, "student.py:net", DATA, SETTINGS, max_accuracy_drop=2.0, tries=2, output=Path("out"))

    assert "no try stays" in message_of(attempt)
    assert "holds a search" in message_of(lambda: attempt(factor=2.0))
    Path(f"{whose}.py").write_text(code.replace(layers, f"{layers}, nn.Tanh()"))
    assert "holds a search" in message_of(attempt)
    Path(f"{whose}.py").write_text(code)
    assert "no try stays" in message_of(attempt)


class Helped(nn.Module):
    """A classifier whose forward calls a function that belongs to somebody else."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = prototype_classifier(DATA)

    def forward(self, inputs: Tensor) -> Tensor:
        return nn.functional.softsign(self.inner(inputs))


def test_changed_code_that_a_teacher_calls_is_another_search(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan((0.5, 0.5))

    def attempt() -> None:
        search(Helped(), "mlp:4", DATA, SETTINGS, max_accuracy_drop=2.0, tries=2, output=tmp_path / "out")

    assert "no try stays" in message_of(attempt)
    monkeypatch.setattr(nn.functional, "softsign", torch.tanh)
    assert "(probe.teacher: the same weights give other logits" in message_of(attempt)


def test_a_finished_search_is_refused(plan: Plan, tmp_path: Path) -> None:
    plan((0.9, 0.5))
    run(tmp_path / "out")
    assert "exists already" in message_of(lambda: run(tmp_path / "out"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"drop": -1.0}, "max_accuracy_drop"),
        ({"tries": 0}, "tries"),
        ({"settings": DistillSettings(training=TRAINING, objective=METHODS["kd"])}, "no gradient objective"),
        ({"settings": DistillSettings(training=TRAINING, objective=ObjectiveSettings())}, "no gradient objective"),
    ],
    ids=["drop", "tries", "kd", "plain"],
)
def test_a_search_that_makes_no_sense_is_refused(
    options: dict[str, Any], words: str, plan: Plan, tmp_path: Path
) -> None:
    plan((0.9, 0.5))
    assert words in message_of(lambda: run(tmp_path / "out", **options))


def test_a_small_search_runs_and_never_looks_at_the_test_set(tmp_path: Path) -> None:
    teacher = as_model(prototype_classifier(DATA), DATA)
    results = []
    for name, test in (("one", DATA.test), ("two", toy_data(seed=5).test)):
        data = replace(DATA, test=test)
        trained = search(teacher, "linear", data, SETTINGS, max_accuracy_drop=100.0, tries=2, output=tmp_path / name)
        results.append(trained.model.logits(DATA.training_examples.floats()))
        record = json.loads((tmp_path / name / SEARCH).read_text())
        assert len(record["tries"]) == 2 and record["chosen"] in (0, 1)
        assert len(trained.history) == 3
        assert torch.equal(load(tmp_path / name).logits(DATA.training_examples.floats()), results[-1])
    assert torch.equal(*results)
