"""Catastrophic overfitting: what it is, and how a training goes back and goes on."""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import pytest
import torch
from reference import assert_state, prototype_classifier, same_state, state_of, toy_data
from toy_training import DATA, FAST, teacher

from robust_student.models.model import as_model
from robust_student.objectives.robust_student import RobustStudentObjective
from robust_student.objectives.settings import ObjectiveSettings
from robust_student.training import overfitting
from robust_student.training.loop import Loop
from robust_student.training.overfitting import OneAgainstMany, OverfittingGuard, guard_of
from robust_student.training.selection import Validation
from robust_student.training.settings import DistillSettings, SelectionSettings, TrainingSettings
from robust_student.training.train import Trained, distill

PERSISTENT = ObjectiveSettings.parse(
    {"radius": 0.3, "secant": {"weight": 1.0, "start": "persistent"}, "noise": {"share": 0.5}}
)
CHEAP = ObjectiveSettings.parse({"radius": 0.3, "secant": {"weight": 5.0, "start": "inputs", "step": 1.0}})
GOOD, BETTER, WORSE = (0.60, 0.50), (0.62, 0.55), (0.58, 0.35)
COLLAPSED = (0.90, 0.05)


def guard(objective: ObjectiveSettings = CHEAP, trained: int = 10_000) -> OverfittingGuard:
    made = guard_of(RobustStudentObjective(as_model("linear", DATA), objective), DATA.training_examples, trained, 0)
    assert made is not None
    return made


def plan(monkeypatch: pytest.MonkeyPatch, accuracies: Sequence[tuple[float, float]], radius: float = 0.3) -> None:
    """What the guard measures from now on."""
    measured = iter(accuracies)
    monkeypatch.setattr(OverfittingGuard, "measure", lambda self, model: OneAgainstMany(*next(measured), radius))
    monkeypatch.setattr(overfitting, "_COST", 100.0)  # a look after every epoch of a tiny set


# What it is -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accuracies", "verdicts"),
    [
        ([GOOD, BETTER, COLLAPSED], [False, False, True]),
        ([GOOD, (0.30, 0.05)], [False, False]),  # both fell: robustness was lost, but the ascent was not misled
        ([GOOD, (0.90, 0.30)], [False, False]),  # it is more than half of what it was
        ([(0.10, 0.08), (0.30, 0.02)], [False, False]),  # too little was there to lose on 60 examples
        ([COLLAPSED, COLLAPSED], [False, False]),  # it never was robust
    ],
)
def test_robustness_to_many_steps_collapses_while_the_gap_to_one_step_opens(
    accuracies: list[tuple[float, float]], verdicts: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan(monkeypatch, accuracies)
    watched, model = guard(), as_model("linear", DATA)
    assert [watched.close_epoch(model, k, dict, useful=True)[1] for k in range(len(accuracies))] == verdicts


def test_a_model_that_guesses_and_a_smaller_radius_are_nothing_to_compare_with(monkeypatch: pytest.MonkeyPatch) -> None:
    plan(monkeypatch, [GOOD, COLLAPSED])
    watched, model = guard(), as_model("linear", DATA)
    assert not watched.close_epoch(model, 1, dict, useful=False)[1] and watched.good is None
    assert not watched.close_epoch(model, 2, dict, useful=True)[1]
    plan(monkeypatch, [GOOD], radius=0.1)
    small = guard()
    small.close_epoch(model, 1, dict, useful=True)
    plan(monkeypatch, [COLLAPSED], radius=0.3)
    assert not small.close_epoch(model, 2, dict, useful=True)[1]


def test_one_step_leaves_more_than_many_and_measuring_again_gives_the_same() -> None:
    model, watched = as_model(prototype_classifier(DATA), DATA).train(), guard()
    first, before = watched.measure(model), state_of(model)
    assert watched.measure(model) == first and first.one_step >= first.many_steps and first.radius == 0.3
    assert model.training
    assert_state(model, before)


@pytest.mark.parametrize(
    ("secant", "watched"),
    [
        ({"weight": 0.0}, False),
        ({"weight": 1.0}, True),
        ({"weight": 1.0, "start": "persistent", "steps": 0}, True),
        ({"weight": 1.0, "steps": 3}, False),  # it costs more, and is not known to be misled
    ],
)
def test_only_a_cheap_ascent_is_watched(secant: dict[str, Any], watched: bool) -> None:
    objective = RobustStudentObjective(as_model("linear", DATA), ObjectiveSettings.parse({"secant": secant}))
    assert (guard_of(objective, DATA.training_examples, 100, 0) is not None) == watched


def test_short_epochs_are_looked_at_less_often_but_the_last_always() -> None:
    assert guard(trained=10_000).every == 1
    short = guard(trained=500)  # 60 examples, 12 passes each, against a tenth of 2 x 500
    assert [short.due(epoch, last=epoch == 9) for epoch in range(1, 10)] == [k in (8, 9) for k in range(1, 10)]


# How it is undone -----------------------------------------------------------------------------------------------------


def student(objective: ObjectiveSettings, epochs: int, **training: Any) -> Trained:
    settings = FAST.model_copy(update={"epochs": epochs, "validation_fraction": 0.5, **training})
    return distill(teacher(), "mlp:4", DATA, DistillSettings(training=settings, objective=objective))


class Spied:
    """The state of a training after each of its epochs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.states, self.steps = list[dict[str, Any]](), list[int]()
        original = Loop._close_epoch

        def close(loop: Loop, seconds: float, taken: int) -> None:
            original(loop, seconds, taken)
            self.states.append(deepcopy(loop.state()))
            assert isinstance(loop.objective, RobustStudentObjective)
            self.steps.append(loop.objective.settings.secant.steps)

        monkeypatch.setattr(Loop, "_close_epoch", close)


def moved(state: dict[str, Any]) -> dict[str, Any]:
    """What an epoch changes, as tensors by name."""
    moments = {
        f"{parameter}.{name}": value
        for parameter, values in state["optimizer"]["state"].items()
        for name, value in values.items()
    }
    average = state["average"] or {}
    kept = {f"kept.{name}": value for name, value in (state["perturbations"] or {}).items()}
    return {**state["objective"], **{f"average.{name}": value for name, value in average.items()}, **moments, **kept}


@pytest.mark.parametrize("ema", [0.0, 0.8])
def test_weights_moments_average_and_perturbations_go_back_and_the_rate_goes_on(
    ema: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan(monkeypatch, [GOOD, WORSE, COLLAPSED, GOOD])
    monkeypatch.setattr(
        Validation, "measure", lambda self, model: {"clean": 0.9, "snr_0": 0.9, "pgd": 0.9, "selection": 0.9}
    )
    spied = Spied(monkeypatch)
    trained = student(PERSISTENT, 4, ema=ema)
    first, third = moved(spied.states[0]), moved(spied.states[2])
    assert first.keys() == third.keys() and len(first) > 8
    assert all(torch.equal(value, third[name]) for name, value in first.items())
    assert spied.steps == [1, 1, 2, 2]
    rates = [record["learning_rate"] for record in trained.history]
    assert rates == [record["learning_rate"] for record in student_without_guard(monkeypatch).history]
    line = (
        "epochs 2 to 3 undone: catastrophic overfitting (right after one step of an attack, wrong after many); going "
        "on from epoch 1 with --secant.steps 2"
    )
    assert [record.get("undone") for record in trained.history] == [None, line, line, None]
    assert trained.warnings[0] == line and trained.best_epoch == 4


def student_without_guard(monkeypatch: pytest.MonkeyPatch) -> Trained:
    monkeypatch.setattr("robust_student.training.loop.guard_of", lambda *_: None)
    return student(PERSISTENT, 4)


def test_an_undone_epoch_is_never_kept_even_if_it_is_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    plan(monkeypatch, [GOOD, WORSE, COLLAPSED])
    figures = iter([(0.9, 0.5), (0.95, 0.6), (1.0, 1.0)])  # each is better than the one before by all that is chosen by
    monkeypatch.setattr(
        Validation, "measure", lambda self, model: dict(zip(("clean", "selection"), next(figures), strict=True))
    )
    spied = Spied(monkeypatch)
    trained = student(PERSISTENT, 3)
    assert trained.best_epoch == 1 and same_state(trained.model, weights(spied.states[0]))


def weights(state: dict[str, Any]) -> dict[str, Any]:
    """Those of the student."""
    return {name.removeprefix("student."): value for name, value in state["objective"].items()}


def test_a_state_taken_after_the_cure_goes_on_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = guard(PERSISTENT), guard(PERSISTENT)
    plan(monkeypatch, [GOOD])
    first.close_epoch(as_model("linear", DATA), 7, dict, useful=True)
    assert "from epoch 7 with --secant.steps 2" in first.cure(8)
    second.restore(first.state())
    assert second.objective.settings.secant == first.objective.settings.secant
    assert second.best == first.best and second.good == {"epoch": 7}


# A training that overfits ---------------------------------------------------------------------------------------------


def overfitting_student(seed: int) -> Trained:
    """One step of the whole radius from the input, a network that is large for 180 examples, a high learning rate."""
    data = toy_data(train=300, noise=0.2)
    training = TrainingSettings(
        epochs=14,
        batch_size=16,
        learning_rate=0.05,
        schedule="cosine",
        validation_fraction=0.4,
        seed=seed,
        device="cpu",
        selection=SelectionSettings(radius=0.3, snr_db=(0.0,), steps=10),
    )
    settings = DistillSettings(training=training, objective=CHEAP)
    return distill(as_model(prototype_classifier(data), data), "mlp:64,64", data, settings)


def test_a_provoked_collapse_is_undone_and_leaves_students_that_withstand_many_steps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(overfitting, "_COST", 100.0)
    cured = [overfitting_student(seed) for seed in (3, 4)]
    for student in cured:
        undone = [record["epoch"] for record in student.history if "undone" in record]
        assert student.best_epoch not in undone and ("catastrophic" in str(student.warnings)) == bool(undone)
    assert any("undone" in record for student in cured for record in student.history)
    monkeypatch.setattr("robust_student.training.loop.guard_of", lambda *_: None)
    left_alone = [overfitting_student(seed) for seed in (3, 4)]
    first, second = (
        sum(student.history[-1]["validation"]["pgd"] for student in students) for students in (cured, left_alone)
    )
    assert first > second + 0.1
