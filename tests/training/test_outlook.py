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
    assert told(epochs=5, batch_size=10).lines == (
        "teacher: 803 parameters, 97.6 % right on validation",
        "student: mlp:2, 43 parameters, 18.7 times fewer",
        "radius: 0.1 = 25.5/255 (linf, the default)",
        "training: 180 steps (5 epochs of 36), 10 examples each",
        "objective: distillation, a step costs about 1.0 times one of plain distillation",
    )


def test_an_accuracy_that_was_not_measured_is_not_said() -> None:
    assert told(accuracy=None).lines[0] == "teacher: 803 parameters"


def test_batches_are_those_of_the_training() -> None:
    assert "22 examples each" in told(batch_size=512).lines[3]
    assert told(epochs=1).lines[3].startswith("training: 16 steps (1 epoch)")


@pytest.mark.parametrize(
    ("changes", "data", "text"),
    [
        ({"radius": 8 / 255}, DATA, "radius: 0.03137 = 8/255 (linf)"),
        ({"norm": "l2", "radius": 0.5}, DATA, "radius: 0.5 = 128/255 (l2)"),
        (
            {"radius": 0.25},
            toy_data(shape=(5,), input_range=UNBOUNDED, scale=torch.ones(5)),
            "radius: 0.25 standard deviations (linf)",
        ),
        ({"radius": 0.25}, toy_data(shape=(5,)), "radius: 0.25 (linf)"),
    ],
)
def test_the_radius_is_said_in_the_data_s_unit(changes: dict[str, Any], data: Data, text: str) -> None:
    assert told(METHODS["kd"].model_copy(update=changes), data=data).lines[2] == text


def test_terms_that_the_method_has_not_are_named() -> None:
    trades, secant = METHODS["trades"], METHODS["secant"].secant.model_copy(update={"weight": 3.0})
    assert "objective: distillation + 6 x trades, a step" in told(trades, "trades").lines[4]
    both = trades.model_copy(update={"secant": secant})
    line = told(both, "trades").lines[4]
    assert "objective: distillation + 3 x secant + 6 x trades (secant added to method trades), a step" in line
    noisy = METHODS["kd"].model_copy(update={"noise": NoiseSettings(share=0.5)})
    assert "objective: distillation, noise in 50 % of the examples" in told(noisy).lines[4]


def test_a_student_that_is_not_smaller_is_doubted() -> None:
    assert told().doubt is None
    swapped = told(teacher="mlp:2", student="mlp:40")
    assert swapped.lines[1] == "student: mlp:40, 803 parameters, no fewer than its teacher"
    assert swapped.doubt is not None and "are --teacher and --model swapped?" in swapped.doubt
    assert told(teacher="linear", student="linear").doubt is not None
