"""What a training that did not work, or was not done, says at its end."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from reference import prototype_classifier, toy_data
from torch import Tensor
from toy_training import FAST, student_of

from robust_student.cli.terminal import finished
from robust_student.data.examples import Data, Examples
from robust_student.models.model import as_model
from robust_student.models.run_directory import load
from robust_student.objectives.methods import METHODS
from robust_student.training.alarms import Outcome
from robust_student.training.balanced import BalancedClasses
from robust_student.training.selection import Validation
from robust_student.training.settings import DistillSettings, TrainingSettings
from robust_student.training.train import TEACHER_SETTINGS, distill, train

TWO = torch.tensor([0] * 50 + [1] * 50)


def outcome(*epochs: tuple[float, float, float], labels: Tensor = TWO, answers: Tensor | None = None) -> Outcome:
    """A training whose epochs had these (loss, clean, selection); the last one is kept."""
    history = [
        {"terms": {"distillation": loss}, "validation": {"clean": clean, "selection": selection}}
        for loss, clean, selection in epochs
    ]
    classes = BalancedClasses(labels)
    given = labels if answers is None else answers
    return Outcome(
        history, len(epochs), classes, classes.equivalent, given, ("cat", "dog"), TrainingSettings(), 300, 0.1
    )


GOOD = ((2.0, 0.80, 0.70), (1.5, 0.90, 0.80), (1.2, 0.92, 0.81), (1.1, 0.92, 0.82))


def test_a_training_that_worked_says_nothing() -> None:
    assert outcome(*GOOD).alarms() == []
    assert outcome((2.0, 0.8, 0.7)).alarms() == []


def test_one_class_for_everything_is_named_with_its_cure() -> None:
    answers = torch.zeros(100, dtype=torch.long)
    (line,) = outcome((2.0, 0.5, 0.5), (1.9, 0.5, 0.5), answers=answers).alarms()
    assert line.startswith("one class for everything: the model answers 'cat' to all validation examples; try ")
    assert "more steps than 600 (--epochs 4)" in line and "--class-weights" not in line
    assert line.endswith("a lower learning rate (--learning-rate 0.001) or a smaller radius (--radius 0.05)")
    answers[0] = 1
    assert (
        "answers 'cat' to 99.0 % of validation examples"
        in outcome(GOOD[0], (1, 0.51, 0.5), answers=answers).alarms()[0]
    )


def test_unbalanced_classes_are_to_be_weighted_first() -> None:
    labels = torch.tensor([0] * 90 + [1] * 10)
    unequal = outcome((2.0, 0.5, 0.5), labels=labels, answers=torch.zeros(100, dtype=torch.long))
    assert "; try class weights (--class-weights balanced), more steps" in unequal.alarms()[0]
    weighted = replace(unequal, settings=TrainingSettings(class_weights="balanced"))
    assert "--class-weights" not in weighted.alarms()[0]


def test_an_accuracy_that_guessing_has_too_is_said_to_be_that() -> None:
    long = outcome(*GOOD, *[(1.0, 0.55, 0.5)] * 2, answers=torch.arange(100) % 2)
    (line,) = long.alarms()
    assert line.startswith("no better than guessing: balanced accuracy on validation is 55.0 %, by guessing 50.0 %")
    assert "more steps" not in line and "(n = 100)" in line
    tiny = replace(long, settings=TrainingSettings(learning_rate=1e-6), radius=None)
    assert tiny.alarms()[0].endswith("try a higher learning rate (--learning-rate 0.004)")
    undefined = replace(long, answers=torch.full((100,), -1))
    assert undefined.alarms()[0].startswith("no better than guessing")


@pytest.mark.parametrize(
    ("epochs", "learnt"),
    [
        ([(2.0, 0.8, 0.7), (2.0, 0.8, 0.7), (1.99, 0.79, 0.7)], False),
        ([(2.0, 0.8, 0.7), (1.9, 0.8, 0.7), (2.5, 0.79, 0.7)], True),  # a loss fell
        ([(2.0, 0.8, 0.7), (2.0, 0.9, 0.7), (2.0, 0.9, 0.7)], True),  # an accuracy rose
        ([(2.0, 0.8, 0.7), (2.0, 0.8, 0.8), (2.0, 0.8, 0.8)], True),
    ],
)
def test_a_training_in_which_no_loss_fell_and_no_accuracy_rose_is_said(epochs: list[Any], learnt: bool) -> None:
    lines = outcome(*epochs).alarms()
    assert any("nothing was learnt after epoch 1" in line and "; try " in line for line in lines) != learnt


@pytest.mark.parametrize(
    ("last", "kept", "said"),
    [
        ((1.0, 0.92, 0.90), 5, True),
        ((1.0, 0.92, 0.84), 5, False),  # within a standard error of the fourth
        ((1.0, 0.92, 0.90), 4, False),  # another epoch is kept
    ],
)
def test_a_last_epoch_that_is_the_best_by_more_than_chance_asks_for_more(
    last: tuple[float, float, float], kept: int, said: bool
) -> None:
    lines = replace(outcome(*GOOD, last), kept=kept).alarms()
    assert lines == (["still improving: the last epoch was the best; train longer: --epochs 10"] if said else [])


# In a training --------------------------------------------------------------------------------------------------------


def unbalanced() -> Data:
    """Two classes of 90 and 30 examples, which nothing tells apart."""
    data = toy_data(classes=2)
    labels = torch.tensor([0] * 90 + [1] * 30)
    return replace(data, train=Examples(torch.full((120, 1, 4, 4), 0.5), labels))


def test_the_warning_is_printed_and_stands_on_the_card(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = unbalanced()
    settings = TEACHER_SETTINGS.model_copy(update={"epochs": 2, "device": "cpu"})
    trained = train("linear", data, settings, output=tmp_path / "run")
    (line,) = trained.warnings
    assert "one class for everything: the model answers 'class 0'" in line
    assert load(tmp_path / "run").card.provenance["warnings"] == [line]
    finished(trained, tmp_path / "run")
    shown = capsys.readouterr().out.splitlines()
    assert shown[-2:] == [f"WARNING: {line}", f"model: {tmp_path / 'run'}"]


def test_a_useful_student_has_no_warning_on_its_card() -> None:
    data = toy_data(train=90, noise=0.1)
    training = FAST.model_copy(update={"learning_rate": 0.1, "validation_fraction": 0.3})
    settings = DistillSettings(training=training, objective=METHODS["secant"])
    trained = distill(as_model(prototype_classifier(data), data), "linear", data, settings)
    assert trained.warnings == () and "warnings" not in trained.model.card.provenance


def test_an_epoch_no_better_than_guessing_is_not_kept_for_its_robustness(monkeypatch: pytest.MonkeyPatch) -> None:
    planned = iter([{"clean": 0.75, "selection": 0.3}, {"clean": 0.6, "selection": 0.9}])  # within a standard error
    monkeypatch.setattr(Validation, "measure", lambda self, model: next(planned))
    assert student_of().best_epoch == 1
