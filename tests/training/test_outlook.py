"""What distill says before it begins."""

from typing import Any

import pytest
import torch
from reference import toy_data

from robust_student.core.tensors import UNBOUNDED
from robust_student.data.readers.load import Data
from robust_student.data.samples import training_and_validation
from robust_student.models.model import as_model
from robust_student.objectives.methods import METHODS
from robust_student.objectives.noise import NoiseSettings
from robust_student.objectives.settings import ObjectiveSettings
from robust_student.training.outlook import Outlook, outlook
from robust_student.training.settings import DistillSettings, TrainingSettings
from robust_student.training.teacher import OpenedTeacher

DATA = toy_data(train=400, shape=(1, 4, 4))


def told(
    objective: ObjectiveSettings = METHODS["kd"],
    method: str = "kd",
    teacher: str = "mlp:40",
    student: str = "mlp:2",
    data: Data = DATA,
    accuracy: float | None = 0.976,
    **training: Any,
) -> Outlook:
    opened = OpenedTeacher(as_model(teacher, data).eval(), accuracy)
    settings = DistillSettings(training=TrainingSettings(**training), objective=objective)
    source, _ = training_and_validation(data, settings.training.validation_fraction, settings.training.seed)
    return outlook(opened, student, data, source, settings, method)


def test_every_fact_has_a_line() -> None:
    secant = METHODS["secant"].model_copy(update={"radius": 0.1})
    assert told(secant, "secant", epochs=5, batch_size=10).lines == (
        "teacher: 803 parameters, 97.6 % right on validation",
        "student: mlp:2, 43 parameters, 18.7 times fewer",
        "training: 180 steps (5 epochs of 36), 10 examples each",
        "objective: distillation + 5 x secant, a step costs about 2.4 times one of plain distillation",
        "radius: linf 0.1 (26/255)",
    )


def test_an_accuracy_that_was_not_measured_is_not_said() -> None:
    assert told(accuracy=None).lines[0] == "teacher: 803 parameters"


def test_batches_are_those_of_the_training() -> None:
    assert "22 examples each" in told(batch_size=512).lines[2]
    assert told(epochs=1).lines[2].startswith("training: 16 steps (1 epoch)")


def test_a_length_that_nobody_named_may_be_cut() -> None:
    assert told().lines[2].startswith("training: at most 3,008 steps (188 epochs of 16)")
    assert told(patience=0.0).lines[2].startswith("training: 3,008 steps")


@pytest.mark.parametrize(
    ("changes", "data", "text"),
    [
        ({"radius": 8 / 255}, DATA, "radius: linf 0.0314 (8/255)"),
        ({"norm": "l2", "radius": 0.5}, DATA, "radius: l2 0.5"),
        ({"radius": 0.25}, toy_data(shape=(5,), input_range=UNBOUNDED, scale=torch.ones(5)), "radius: linf 0.25"),
    ],
)
def test_a_radius_that_is_named_is_said(changes: dict[str, Any], data: Data, text: str) -> None:
    assert told(METHODS["secant"].model_copy(update=changes), "secant", data=data).lines[-1] == text


def test_a_radius_that_is_not_named_or_not_used_is_not_said() -> None:
    """The first is said with its reason when it is found."""
    for objective in (METHODS["secant"], METHODS["kd"].model_copy(update={"radius": 0.1})):
        assert not any("radius" in line for line in told(objective).lines)


def test_terms_that_the_method_has_not_are_named() -> None:
    trades, secant = METHODS["trades"], METHODS["secant"].secant.model_copy(update={"weight": 3.0})
    assert "objective: distillation + 6 x trades, a step" in told(trades, "trades").lines[3]
    both = trades.model_copy(update={"secant": secant})
    line = told(both, "trades").lines[3]
    assert "objective: distillation + 3 x secant + 6 x trades (secant added to method trades), a step" in line
    noisy = METHODS["kd"].model_copy(update={"noise": NoiseSettings(share=0.5)})
    assert "objective: distillation, noise in 50 % of the examples" in told(noisy).lines[3]


def test_a_student_that_is_not_smaller_is_doubted() -> None:
    assert told().doubt is None
    swapped = told(teacher="mlp:2", student="mlp:40")
    assert swapped.lines[1] == "student: mlp:40, 803 parameters, no fewer than its teacher"
    assert swapped.doubt is not None and "are --teacher and --model swapped?" in swapped.doubt
    assert told(teacher="linear", student="linear").doubt is not None
