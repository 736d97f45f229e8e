"""Every option of a training changes it."""

from copy import deepcopy
from typing import Any

import pytest
from reference import same_state, state_of, toy_data
from toy_training import DATA, FAST, student_of, teacher

from robust_student.objectives.settings import ObjectiveSettings
from robust_student.training.settings import DistillSettings, SelectionSettings, TrainingSettings
from robust_student.training.train import distill, train

OTHERS: dict[str, Any] = {
    "epochs": 3,
    "batch_size": 5,
    "optimizer": "sgd",
    "learning_rate": 0.01,
    "weight_decay": 0.5,
    "schedule": "cosine",
    "gradient_clip": 0.01,
    "validation_fraction": 0.3,
    "seed": 1,
    "precision": "bf16",
}
OTHER_SELECTIONS: dict[str, Any] = {
    "metric": "accuracy",
    "snr_db": (0.0, 10.0),
    "norm": "l2",
    "radius": 0.02,
    "steps": 1,
    "examples": 3,
}


def test_the_lists_of_options_are_complete() -> None:
    elsewhere = {"device", "selection", "augmentation", "accumulate", "ema", "compile", "checkpoint_minutes", "track"}
    elsewhere |= {"class_weights", "patience"}
    assert set(OTHERS) == set(TrainingSettings.model_fields) - elsewhere
    assert set(OTHER_SELECTIONS) == set(SelectionSettings.model_fields)


@pytest.mark.parametrize("option", sorted(OTHERS))
def test_every_training_option_changes_the_training(option: str) -> None:
    settings = FAST.model_copy(update={option: OTHERS[option]})
    usual, changed = (train("mlp:4", DATA, s) for s in (FAST, settings))
    final = [[record["terms"], record["learning_rate"]] for record in usual.history]
    assert final != [[record["terms"], record["learning_rate"]] for record in changed.history]


@pytest.mark.parametrize("option", sorted(OTHER_SELECTIONS))
def test_every_selection_option_changes_the_validation_and_nothing_else(option: str) -> None:
    data = toy_data(train=400, noise=0.4)
    good = train("mlp:8", data, FAST.model_copy(update={"epochs": 5})).model
    settings = FAST.model_copy(
        update={"learning_rate": 1e-3, "validation_fraction": 0.5, "selection": SelectionSettings(radius=0.2, steps=9)}
    )
    selection = settings.selection.model_copy(update={option: OTHER_SELECTIONS[option]})
    usual, changed = (
        train(deepcopy(good), data, s) for s in (settings, settings.model_copy(update={"selection": selection}))
    )
    assert [record["terms"] for record in usual.history] == [record["terms"] for record in changed.history]
    assert [record["validation"] for record in usual.history] != [record["validation"] for record in changed.history]


def test_no_limit_on_the_gradient_is_the_same_as_a_huge_one() -> None:
    free, huge = (student_of(gradient_clip=limit) for limit in (None, 1e9))
    assert same_state(free.model, state_of(huge.model))


def test_the_objective_is_the_one_that_was_asked_for() -> None:
    settings = DistillSettings(training=FAST, objective=ObjectiveSettings(norm="l2"))
    plain = distill(teacher(), "mlp:4", DATA, settings)
    assert set(plain.history[0]["terms"]) == {"distillation"}
    default = distill(teacher(), "mlp:4", DATA, DistillSettings(training=FAST))
    assert not same_state(plain.model, state_of(default.model))
