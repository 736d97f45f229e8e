"""Bounds of activation functions contain every value, chord and slope of the function on the interval."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from robust_student.activations import ABSOLUTE, GELU, GELU_TANH, RELU, SIGMOID, SILU, TANH, Activation, Kinked

FUNCTIONS: dict[str, Activation] = {
    "relu": RELU,
    "leaky": Kinked(0.1),
    "steep leaky": Kinked(1.7),
    "absolute": ABSOLUTE,
    "tanh": TANH,
    "sigmoid": SIGMOID,
    "silu": SILU,
    "gelu": GELU,
    "gelu tanh": GELU_TANH,
}
ends = st.one_of(st.floats(-30, 30), st.sampled_from([0.0, -1.2784645, -0.7517916, 1e-7, -1e-7]))
every_function = pytest.mark.parametrize("name", list(FUNCTIONS))


def interval(first: float, second: float) -> tuple[Tensor, Tensor, Tensor]:
    """Ends of the interval, each of one element, and a fine grid in it."""
    low, high = (torch.tensor([value], dtype=torch.float64) for value in sorted((first, second)))
    return low, high, low + (high - low) * torch.linspace(0, 1, 2001, dtype=torch.float64)


def slopes_of(function: Activation, points: Tensor) -> Tensor:
    points = points.clone().requires_grad_()
    (found,) = torch.autograd.grad(function(points).sum(), points)
    return found


@every_function
@given(first=ends, second=ends)
def test_the_interval_is_that_of_the_values(name: str, first: float, second: float) -> None:
    function = FUNCTIONS[name]
    low, high, grid = interval(first, second)
    least, greatest = function.interval(low, high)
    values = function(grid)
    assert float(least) <= float(values.min()) + 1e-12 and float(values.max()) <= float(greatest) + 1e-12
    # Not wider than the values, but for the rounded minimum, which counts near its place as well.
    assert float(least) >= float(values.min()) - 1e-4 - float(high - low) / 2000
    assert float(greatest) <= float(values.max()) + 1e-9


@every_function
@given(first=ends, second=ends)
def test_the_function_lies_between_its_lines(name: str, first: float, second: float) -> None:
    function = FUNCTIONS[name]
    low, high, grid = interval(first, second)
    lines = function.lines(low, high)
    values = function(grid)
    assert bool((lines.lower_slope * grid + lines.lower_offset <= values + 1e-9).all())
    assert bool((values <= lines.upper_slope * grid + lines.upper_offset + 1e-9).all())
    gap = (lines.upper_slope - lines.lower_slope) * grid + lines.upper_offset - lines.lower_offset
    # A settled interval leaves next to no room between the lines; any other at most what a box would leave.
    settled = bool(function.settled(low, high))
    room = 1e-8 if settled else 2.1 * function.steepest * float(high - low) + 0.2
    assert float(gap.max()) <= room


@every_function
@given(first=ends, second=ends)
def test_the_slopes_are_bounded_at_every_point(name: str, first: float, second: float) -> None:
    function = FUNCTIONS[name]
    low, high, grid = interval(first, second)
    least, greatest = function.slopes(low, high)
    found = slopes_of(function, grid)
    if isinstance(function, Kinked) and float(low) <= 0 <= float(high):
        found = torch.tensor([function.left, 1.0], dtype=torch.float64)  # Clarke's slopes include both sides
    assert float(least) <= float(found.min()) + 1e-12 and float(found.max()) <= float(greatest) + 1e-12
    assert max(abs(float(least)), abs(float(greatest))) <= function.steepest + 1e-12


@every_function
def test_the_global_constants_are_sharp(name: str) -> None:
    function = FUNCTIONS[name]
    grid = torch.linspace(-12, 12, 240_001, dtype=torch.float64)
    steepest = float(slopes_of(function, grid).abs().max())
    assert steepest <= function.steepest <= steepest * 1.01


@every_function
def test_settled_means_that_tighter_ends_change_nothing(name: str) -> None:
    function = FUNCTIONS[name]
    low, high = (torch.tensor([value], dtype=torch.float64) for value in (0.5, 1.0))
    inner = function.lines(low + 0.1, high - 0.1)
    same = all(torch.allclose(a, b) for a, b in zip(function.lines(low, high), inner, strict=True))
    assert bool(function.settled(low, high)) is same
