"""Faults of the teacher are found: outputs, gradients, accuracy."""

from pathlib import Path
from typing import Any

import pytest
import torch
from finding import levels_of
from torch import Tensor, nn

from robust_student.core.tensors import UNIT_RANGE
from robust_student.data.readers.load import Data, Examples
from robust_student.doctor.examine import training_parts
from robust_student.doctor.teacher import (
    check_accuracy,
    check_gradients,
    check_normalisation,
    check_outputs,
    sample_inputs,
)
from robust_student.models.model import Model, as_model
from robust_student.models.run_directory import load


class Changed(nn.Module):
    """A network whose inputs and logits go through functions."""

    def __init__(self, network: nn.Module, inputs: Any = lambda x: x, logits: Any = lambda z: z) -> None:
        super().__init__()
        self.network, self.inputs, self.logits = network, inputs, logits

    def forward(self, inputs: Tensor) -> Tensor:
        return self.logits(self.network(self.inputs(inputs)))


def changed(model: Model, **functions: Any) -> Model:
    return Model(Changed(model.network, **functions), model.card, model.mean, model.std).eval()


def noisy(logits: Tensor) -> Tensor:
    return logits + torch.rand(1)


OUTPUTS: dict[str, tuple[Any, str]] = {
    "probabilities": (lambda z: z.softmax(dim=1), "its outputs are probabilities"),
    "random": (noisy, "two passes over the same inputs differ"),
    "batch": (lambda z: z - z.mean(dim=0), "depend on the other examples of its batch"),
    "constant": (lambda z: 0 * z + torch.arange(10.0), "the same for every example"),
    "nan": (lambda z: z * torch.where(torch.arange(len(z)) < 3, torch.nan, 1.0)[:, None], "3 of 50 examples hold NaN"),
}


@pytest.mark.parametrize("name", list(OUTPUTS))
def test_a_fault_of_the_outputs_is_found(name: str, run: Path, digits: Data) -> None:
    function, text = OUTPUTS[name]
    teacher, inputs = load(run), digits.test.floats(slice(0, 50))
    assert levels_of(check_outputs(changed(teacher, logits=function), inputs), text) == ["problem"]
    assert check_outputs(teacher, inputs) == []


GRADIENTS: dict[str, tuple[dict[str, Any], str]] = {
    "rounded": ({"inputs": torch.round}, "is zero everywhere on 50 of 50"),
    "detached": ({"logits": Tensor.detach}, "have no gradient with respect to the input"),
    "not a number": ({"inputs": lambda x: x + (0 * x.detach() * x).sqrt()}, "is NaN or infinite on"),
    "unused": ({"logits": lambda z: nn.Parameter(torch.randn(50, 10))}, "is zero everywhere on 50 of 50"),
}


@pytest.mark.parametrize("name", list(GRADIENTS))
def test_a_fault_of_the_gradient_is_found(name: str, run: Path, digits: Data) -> None:
    functions, text = GRADIENTS[name]
    teacher, inputs = load(run), digits.test.floats(slice(0, 50))
    assert levels_of(check_gradients(changed(teacher, **functions), inputs), text) == ["problem"]
    assert check_gradients(teacher, inputs) == []
    assert not inputs.requires_grad


def test_accuracy_is_judged_by_chance_and_by_the_teacher_s_own_record(run: Path, digits: Data) -> None:
    teacher, parts = load(run), training_parts(digits)
    assert parts is not None
    validation = parts[1]
    assert check_accuracy(teacher, validation).level == "fine"
    mixed = check_accuracy(changed(teacher, logits=lambda z: z.roll(1, dims=1)), validation)
    assert mixed.level == "problem" and "no better than chance" in mixed.text
    worse = changed(teacher, logits=lambda z: torch.where(torch.arange(len(z))[:, None] % 3 > 0, z, z.roll(1, dims=1)))
    worse.card, worse.history = teacher.card, teacher.history
    note = check_accuracy(worse, validation)
    assert note.level == "note" and "its own record says" in note.text
    worse.history = []
    assert check_accuracy(worse, validation).level == "fine"


class First(nn.Module):
    """Always names class 0."""

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.arange(10.0, 0, -1).expand(len(inputs), 10)


def test_always_naming_the_largest_class_is_noted(digits: Data) -> None:
    lopsided = Examples(digits.test.stored, (torch.arange(400) % 5 == 0).long())
    finding = check_accuracy(as_model(First(), digits), lopsided)
    assert finding.level == "note" and "no better than naming the largest class alone (80.0 %)" in finding.text


def test_a_teacher_is_tried_on_noise_where_there_are_no_examples(run: Path) -> None:
    teacher = load(run)
    noise = sample_inputs(None, teacher, 20)
    assert noise.shape == (20, 1, 8, 8) and noise.min() >= 0 and noise.max() <= 1 and noise.std() > 0.2
    teacher.card = teacher.card.model_copy(update={"input_range": (None, None)})
    assert sample_inputs(None, teacher, 20).min() < 0


def test_few_examples_cannot_tell_a_teacher_from_the_largest_class(run: Path, digits: Data) -> None:
    positions = torch.stack([(digits.test.labels == label).nonzero()[0, 0] for label in range(3)])
    finding = check_accuracy(load(run), digits.test.subset(positions))
    assert finding.level == "note" and "too few examples to tell it from naming the largest class" in finding.text


def test_the_linear_model_has_not_seen_what_it_is_compared_on() -> None:
    """Labels without a pattern can be known by heart only."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (400, 1, 20, 20), generator=generator, dtype=torch.uint8)
    part = Examples(pixels, torch.randint(0, 10, (400,), generator=generator))
    data = Data("noise", part, part, tuple("abcdefghij"), UNIT_RANGE)
    parts = training_parts(data)
    assert parts is not None
    (fair,) = check_normalisation(as_model("linear", data).eval(), data, *parts)
    (unfair,) = check_normalisation(as_model("linear", data).eval(), data, data.train, parts[1])
    assert (fair.level, unfair.level) == ("fine", "note")
    assert "to compare with: a linear model on the inputs reaches" in fair.text
