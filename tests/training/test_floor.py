"""The floor under clean accuracy: how it moves the radius, on numbers and in trainings."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import assert_state, message_of, state_of
from torch import nn
from toy_training import DATA, FAST, outcome, teacher

from robust_student.models.model import Model
from robust_student.objectives.methods import METHODS
from robust_student.objectives.robust_student import RobustStudentObjective
from robust_student.training.batches import planned_epochs
from robust_student.training.floor import Floor, Plan, Reference
from robust_student.training.plain import short_plain
from robust_student.training.selection import Validation
from robust_student.training.settings import DistillSettings, FloorSettings, TrainingSettings
from robust_student.training.train import Trained, distill

NETWORK = teacher()
PLAIN = Reference("a plain student", ((0.5, 0.6), (1.0, 0.9)))


class Said(Validation):
    """Says these accuracies, one after the other."""

    def __init__(self, accuracies: list[float], examples: float) -> None:
        self.said, self.examples_said = iter(accuracies), examples

    def clean(self, model: Model) -> float:
        return next(self.said)

    @property
    def certainty(self) -> float:
        return self.examples_said


def floor(plan: Plan, accuracies: list[float], examples: float = 10_000.0) -> Floor:
    objective = RobustStudentObjective(nn.Linear(2, 2), METHODS["persistent"])
    return Floor(objective, Said(accuracies, examples), 0.1, PLAIN, plan, checks=10)


def after(plan: Plan, accuracies: list[float], progress: float = 1.0, examples: float = 10_000.0) -> float:
    """R after these checks."""
    moved = floor(plan, accuracies, examples)
    for _ in accuracies:
        moved.check(NETWORK, progress)
    return moved.radius


def test_the_reference_is_a_line_between_its_epochs() -> None:
    assert [PLAIN.at(progress) for progress in (0.0, 0.25, 0.5, 0.75, 1.0)] == pytest.approx([0, 0.3, 0.6, 0.75, 0.9])
    constant = Reference("the teacher", ((1.0, 0.8),), rising=False)
    assert constant.at(0.1) == constant.at(1.0) == 0.8


def test_the_radius_shrinks_below_the_floor_and_grows_back_above_it() -> None:
    keep = Plan("keep", 0.0)
    assert after(keep, [0.5]) == pytest.approx(0.08)
    assert after(keep, [0.5, 0.5]) == pytest.approx(0.064)
    assert after(keep, [0.95]) == pytest.approx(0.1)
    assert after(Plan("keep", 0.0, largest=4.0), [0.95, 0.95]) == pytest.approx(0.15625)
    assert after(Plan("keep", 0.0, largest=1.05), [0.95, 0.95]) == pytest.approx(0.105)


def test_the_drop_and_the_progress_decide_what_is_enough() -> None:
    assert after(Plan("keep", 0.0), [0.88]) == pytest.approx(0.08)
    assert after(Plan("keep", 0.02), [0.88]) == pytest.approx(0.1)
    assert after(Plan("keep", 0.0), [0.62], progress=0.5) == pytest.approx(0.1)


def test_what_the_student_itself_reached_is_a_floor_of_the_default() -> None:
    own, fell = Plan("keep", 0.0, teacher=0.95), [0.95] * 3 + [0.93] * 3
    assert after(Plan("keep", 0.0), fell) == pytest.approx(0.1)
    shrunk = after(own, fell)
    assert shrunk < 0.1
    assert after(own, [*fell, *[0.95] * 9]) == pytest.approx(after(own, [*fell, 0.95, 0.95]))  # it grows no more
    assert after(own, fell, examples=50) == pytest.approx(0.1)  # within a standard error


def test_it_grows_from_half_only_while_the_student_is_about_as_accurate_as_the_teacher() -> None:
    plan = Plan("keep", 0.0, first=0.5, teacher=0.95)
    assert after(plan, [0.944] * 9) == pytest.approx(0.05)
    assert after(plan, [0.946] * 9) == pytest.approx(0.1)
    assert after(plan, [0.93] * 9, examples=100) == pytest.approx(0.1)  # within a standard error


def test_a_small_validation_set_is_doubted() -> None:
    assert after(Plan("keep", 0.0), [0.88], examples=40) == pytest.approx(0.1)  # within half a standard error
    assert after(Plan("keep", 0.0), [0.88], examples=10_000) == pytest.approx(0.08)


def test_the_mean_of_three_checks_decides() -> None:
    assert after(Plan("keep", 0.0), [0.95, 0.95, 0.85]) == pytest.approx(0.1)


def test_a_target_radius_is_reached_whatever_it_costs() -> None:
    moved = floor(Plan("target", 0.0), [])
    assert moved.radius == pytest.approx(0.025)
    for progress, radius in ((0.15, 0.0625), (0.3, 0.1), (1.0, 0.1)):
        moved.check(NETWORK, progress)
        assert moved.radius == pytest.approx(radius)


@given(st.lists(st.floats(0, 1), max_size=60), st.floats(1, 1e5), st.floats(1, 4))
def test_the_radius_stays_between_its_limits(accuracies: list[float], examples: float, largest: float) -> None:
    assert 0.002 - 1e-9 <= after(Plan("keep", 0.01, largest), accuracies, examples=examples) <= 0.1 * largest + 1e-9


@given(st.integers(1, 200))
def test_there_are_as_many_checks_as_asked(steps: int) -> None:
    moved = floor(Plan("keep", 0.0), [])
    assert sum(moved.due(done, steps) for done in range(1, steps + 1)) == min(steps, 10)


def test_its_state_brings_it_back() -> None:
    first, second = floor(Plan("keep", 0.0), [0.5, 0.6]), floor(Plan("keep", 0.0), [])
    for _ in range(2):
        first.check(NETWORK, 1.0)
    second.restore(first.state())
    assert second.state() == first.state() and second.radius == first.radius


# In trainings ---------------------------------------------------------------------------------------------------------

LONGER = FAST.model_copy(update={"epochs": 6})


def student(**changes: Any) -> Trained:
    settings = DistillSettings(training=LONGER, objective=METHODS["persistent"]).model_copy(update=changes)
    return distill(teacher(), "mlp:4", DATA, settings)


def with_floor(**values: Any) -> Trained:
    return student(floor=FloorSettings(**values))


def record(trained: Trained) -> dict[str, Any]:
    kept: dict[str, Any] = trained.model.card.provenance["floor"]
    return kept


def test_by_default_the_reference_is_a_short_plain_student() -> None:
    trained = student()
    assert record(trained)["reference"] == "a plain student of 2 epochs"  # 0.15 of 6 epochs, for each of two passes
    assert record(trained)["radius"] == trained.model.card.provenance["settings"]["objective"]["radius"]
    plain = distill(teacher(), "mlp:4", DATA, short_plain(DistillSettings(training=LONGER), 54))
    assert set(plain.history[0]["terms"]) == {"distillation"} and len(plain.history) == 2
    assert record(trained)["floor"] == max(entry["validation"]["clean"] for entry in plain.history)


def test_a_named_radius_stays_and_costs_no_second_training() -> None:
    objective = METHODS["persistent"].model_copy(update={"radius": 0.1})
    trained = student(objective=objective)
    assert "floor" not in trained.model.card.provenance and "radius" not in trained.history[0]


def test_a_floor_that_cannot_be_met_shrinks_the_radius_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    spoiled = LONGER.model_copy(update={"learning_rate": 1e-9})
    trained = student(training=spoiled, floor=FloorSettings(max_accuracy_drop=0.0))
    assert record(trained)["reference"] == "the teacher" and not record(trained)["held"]
    radii = [entry["radius"] for entry in trained.history]
    assert radii == sorted(radii, reverse=True) and radii[-1] < 0.5 * record(trained)["radius"]
    assert "is NOT met" in caplog.text


def test_max_accuracy_drop_changes_the_training() -> None:
    strict, loose = (with_floor(max_accuracy_drop=drop) for drop in (0.0, 100.0))
    assert outcome(strict) != outcome(loose)
    assert loose.history[-1]["radius"] > record(loose)["radius"] >= strict.history[-1]["radius"]


def test_a_named_plain_student_is_the_reference(tmp_path: Path) -> None:
    plain = distill(
        teacher(), "mlp:4", DATA, DistillSettings(training=LONGER, objective=METHODS["kd"]), output=tmp_path / "kd"
    )
    trained = with_floor(plain=str(tmp_path / "kd"))
    assert record(trained)["reference"] == f"the plain student {tmp_path / 'kd'}"
    assert record(trained)["floor"] == pytest.approx(plain.validation["clean"] - 0.01)


def test_a_target_radius_is_what_is_trained_for(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    trained = with_floor(target_radius=0.2)
    assert trained.history[-1]["radius"] == record(trained)["radius"] == 0.2
    assert "the price of it is" in caplog.text


def test_the_student_of_a_module_starts_from_the_same_weights() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    before = state_of(module)
    settings = DistillSettings(training=FAST.model_copy(update={"learning_rate": 1e-12, "epochs": 1}))
    distill(teacher(), module, DATA, settings)
    for name, value in state_of(module).items():
        assert value.sub(before[name]).abs().max() < 1e-9  # the plain student trained a copy


def test_what_cannot_be_is_refused() -> None:
    kd = DistillSettings(training=FAST, objective=METHODS["kd"], floor=FloorSettings(max_accuracy_drop=1.0))
    assert "max_accuracy_drop: the method has no ball" in message_of(lambda: distill(teacher(), "mlp:4", DATA, kd))
    with pytest.raises(ValueError, match="name one of them"):
        FloorSettings(max_accuracy_drop=1.0, target_radius=0.1)
    with pytest.raises(ValueError, match="name the radius twice"):
        DistillSettings(objective=METHODS["secant"].model_copy(update={"radius": 0.1}), floor={"target_radius": 0.1})


# How long -------------------------------------------------------------------------------------------------------------


def test_a_length_that_nobody_names_is_3000_steps_and_at_least_10_epochs() -> None:
    named, free = TrainingSettings(epochs=4), TrainingSettings()
    assert planned_epochs(1_660, named) == 4
    assert planned_epochs(1_660, free) == 188  # 16 steps of 103 examples
    assert planned_epochs(54_000, free) == 10


def test_after_a_plateau_the_rest_is_skipped_to_the_end_of_the_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("robust_student.training.batches._STEPS", 240)

    def trained(patience: float) -> Trained:
        free = FAST.model_copy(update={"epochs": None, "patience": patience, "learning_rate": 0.05, "batch_size": 128})
        return distill(teacher(), "linear", DATA, DistillSettings(training=free, objective=METHODS["kd"]))

    short, whole = trained(0.1), trained(0.0)
    assert len(whole.history) == 40 > len(short.history) >= 8
    assert short.history[-1]["learning_rate"] == pytest.approx(whole.history[-1]["learning_rate"])
    assert_state(short.model, state_of(trained(0.1).model))
