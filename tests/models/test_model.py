"""Models: what fits data, and logits that leave no trace."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from reference import affine, assert_state, message_of, state_of, toy_data
from torch import nn

from robust_student.core.tensors import UNBOUNDED, InputRange, Shape
from robust_student.models.card import ModelCard
from robust_student.models.model import Model, as_model, network_shape, require_fit

DATA = toy_data()


# Fit ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"train": toy_data(shape=(1, 4, 5)).train}, "(1, 4, 4)"),
        ({"classes": ("a", "b")}, "3 classes"),
        ({"classes": ("class 0", "class 2", "class 1")}, "class 1 is 'class 1', in the data it is 'class 2'"),
        ({"input_range": InputRange(0.0, 2.0)}, "(0.0, 2.0)"),
        ({"input_range": UNBOUNDED}, "(0.0, 1.0)"),
    ],
    ids=["shape", "count", "order", "range", "unbounded"],
)
def test_a_model_that_does_not_fit_the_data_is_refused(change: dict[str, Any], words: str) -> None:
    model = as_model("linear", DATA)
    other = replace(DATA, **change)
    message = message_of(lambda: require_fit(model, other, "the teacher"))
    assert message.startswith("the teacher: ") and words in message
    assert words in message_of(lambda: as_model(model, other))


def test_a_model_that_fits_is_passed_on_as_it_is() -> None:
    model = as_model("linear", DATA)
    assert as_model(model, DATA) is model


@pytest.mark.parametrize("network", ["linaer", affine(torch.zeros(4, 16)), affine(torch.zeros(3, 15))])
def test_a_network_that_does_not_fit_the_data_is_refused(network: str | nn.Module) -> None:
    message_of(lambda: as_model(network, DATA))


@pytest.mark.parametrize("inputs", [(1, 4, 5), (3, 4, 5), (6,), (1,)])
@pytest.mark.parametrize("std", [(), (1,), (6,), (3, 1, 1), (0, 1, 1)])
@pytest.mark.parametrize(
    "mean", [(), (0,), (1,), (5,), (6,), (1, 1, 1), (2, 1, 1), (3, 1, 1), (1, 4, 1), (1, 4, 5), (1, 1, 1, 1)]
)
def test_normalisation_fits_where_it_broadcasts_and_changes_no_side(mean: Shape, std: Shape, inputs: Shape) -> None:
    card = ModelCard(network="linear", input_shape=inputs, classes=("a", "b"))
    try:
        reached = tuple((torch.zeros(mean) + torch.zeros(std) + torch.zeros(inputs)).shape)
    except RuntimeError:
        reached = ()
    expected = reached if len(reached) == len(inputs) and reached[1:] == inputs[1:] else None
    assert network_shape(card, torch.zeros(mean), torch.zeros(std)) == expected


# Logits ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 7, 30, 1000])
def test_logits_are_those_of_a_direct_pass_for_any_batch(batch: int) -> None:
    model = as_model("resnet8:2", DATA)
    inputs = DATA.test.floats()
    expected = load_free_copy(model)(inputs)
    torch.testing.assert_close(model.logits(inputs, batch), expected)


def load_free_copy(model: Model) -> nn.Module:
    """The same weights in a second model in evaluation mode."""
    copy = as_model("resnet8:2", DATA)
    copy.load_state_dict(model.state_dict())
    return copy.eval()


def test_logits_restore_the_mode_of_every_module_and_touch_no_buffer() -> None:
    model = as_model("resnet8:2", DATA).train()
    frozen = next(part for part in model.modules() if isinstance(part, nn.BatchNorm2d))
    frozen.eval()
    before, modes = state_of(model), [part.training for part in model.modules()]
    assert not model.logits(DATA.test.floats()).requires_grad
    assert [part.training for part in model.modules()] == modes
    assert_state(model, before)


def test_logits_restore_the_mode_when_the_pass_fails() -> None:
    model = as_model("linear", DATA).train()
    with pytest.raises(RuntimeError):
        model.logits(torch.zeros(1, 3))
    assert all(part.training for part in model.modules())


# Device and provenance ------------------------------------------------------------------------------------------------


def test_a_half_open_range_of_the_data_reaches_the_card() -> None:
    half_open = toy_data(shape=(2,), input_range=InputRange(0.0, math.inf))
    assert as_model("linear", half_open).card.range == half_open.input_range
