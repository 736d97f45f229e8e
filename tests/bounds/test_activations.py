"""Bounds of activation functions contain every value, chord and slope, by textbook formulas in numpy."""

import math
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import as_numpy
from reference_norm import Array
from scipy import special
from torch import Tensor

from robust_student.bounds.activations import (
    ABSOLUTE,
    GELU,
    GELU_TANH,
    RELU,
    SIGMOID,
    SILU,
    TANH,
    Activation,
    Kinked,
    Smooth,
)


class Textbook(NamedTuple):
    """A function and its derivatives by numpy; at a kink `slope` is the one to the right."""

    value: Callable[[Array], Array]
    slope: Callable[[Array], Array]


def kinked(left: float) -> Textbook:
    return Textbook(lambda x: np.where(x >= 0, x, left * x), lambda x: np.where(x >= 0, 1.0, left))


def sigmoid_slope(x: Array) -> Array:
    return special.expit(x) * special.expit(-x)


def gelu_tanh_slope(x: Array) -> Array:
    root = math.sqrt(2 / math.pi)
    inner, slope = root * (x + 0.044715 * x**3), root * (1 + 3 * 0.044715 * x**2)
    return 0.5 * (1 + np.tanh(inner)) + 0.5 * x * (1 - np.tanh(inner) ** 2) * slope


ACTIVATIONS: dict[str, tuple[Activation, Textbook]] = {
    "relu": (RELU, kinked(0.0)),
    "leaky": (Kinked(0.01), kinked(0.01)),
    "leaky, steep": (Kinked(2.5), kinked(2.5)),
    "leaky, falling": (Kinked(-0.3), kinked(-0.3)),
    "leaky, falling steeply": (Kinked(-3.0), kinked(-3.0)),
    "straight": (Kinked(1.0), kinked(1.0)),
    "absolute": (ABSOLUTE, Textbook(np.abs, lambda x: np.where(x >= 0, 1.0, -1.0))),
    "tanh": (TANH, Textbook(np.tanh, lambda x: 1 - np.tanh(x) ** 2)),
    "sigmoid": (SIGMOID, Textbook(special.expit, sigmoid_slope)),
    "silu": (SILU, Textbook(lambda x: x * special.expit(x), lambda x: special.expit(x) + x * sigmoid_slope(x))),
    "gelu": (
        GELU,
        Textbook(
            lambda x: x * special.ndtr(x),
            lambda x: special.ndtr(x) + x * np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi),
        ),
    ),
    "gelu, tanh": (
        GELU_TANH,
        Textbook(lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))), gelu_tanh_slope),
    ),
}
KINKED = [name for name, (function, _) in ACTIVATIONS.items() if isinstance(function, Kinked)]
SMOOTH = [name for name, (function, _) in ACTIVATIONS.items() if isinstance(function, Smooth)]
RISING = ["relu", "leaky", "leaky, steep", "straight", "tanh", "sigmoid"]
every_activation = pytest.mark.parametrize("name", ACTIVATIONS)

PLACES = st.floats(-20, 20, allow_subnormal=False) | st.sampled_from([0.0, -1e4, 1e4, -1.2785, -0.7518, -0.7525])
WIDTHS = st.sampled_from([0.0, 1e-13, 1e-9, 1.1e-9, 1e-6, 1e-3, 0.1, 1.0, 1e4]) | st.floats(
    0, 30, allow_subnormal=False
)


def around(place: float, width: float, anchor: str) -> tuple[float, float]:
    """An interval that starts, ends or is centred at a place; `anchor` 0 makes one end 0."""
    if anchor == "starts":
        return place, place + width
    if anchor == "ends":
        return place - width, place
    if anchor == "zero":
        return min(place, 0.0), max(place, 0.0)
    return place - width / 2, place + width / 2


INTERVALS = st.builds(around, PLACES, WIDTHS, st.sampled_from(["starts", "ends", "centred", "zero"]))


def some_intervals(test: Callable[..., None]) -> Callable[..., None]:
    """Run a test on lists of intervals."""
    return settings(max_examples=25)(given(intervals=st.lists(INTERVALS, min_size=3, max_size=12))(test))


def ends_of(intervals: list[tuple[float, float]]) -> tuple[Tensor, Tensor]:
    ends = torch.tensor(intervals, dtype=torch.float64)
    return ends[:, 0], ends[:, 1]


def grid_of(lower: Tensor, upper: Tensor) -> Array:
    """Many points of each interval: evenly spaced, crowded at the ends, and those near 0."""
    low, high = as_numpy(lower)[:, None], as_numpy(upper)[:, None]
    shares = np.linspace(0, 1, 401)
    near = np.geomspace(1e-12, 0.5, 30)
    shares = np.concatenate([shares, near, 1 - near])
    inside = low + (high - low) * shares
    curved = np.broadcast_to(np.linspace(-3, 3, 121), (len(low), 121))
    return np.clip(np.concatenate([low, inside, high, curved], axis=1), low, high)


def rounding(lower: Tensor, upper: Tensor) -> Array:
    """What float64 may lose at values of this size."""
    return 1e-12 * (1 + np.maximum(np.abs(as_numpy(lower)), np.abs(as_numpy(upper)))[:, None])


@every_activation
def test_values_are_the_textbooks(name: str) -> None:
    function, textbook = ACTIVATIONS[name]
    points = np.concatenate([np.linspace(-30, 30, 2001), [-1e4, -1e-9, 0.0, 1e-9, 1e4]])
    np.testing.assert_allclose(as_numpy(function(torch.tensor(points))), textbook.value(points), rtol=1e-12, atol=1e-13)


@every_activation
@some_intervals
def test_the_interval_contains_every_value(name: str, intervals: list[tuple[float, float]]) -> None:
    function, textbook = ACTIVATIONS[name]
    lower, upper = ends_of(intervals)
    values, tolerance = textbook.value(grid_of(lower, upper)), rounding(lower, upper)
    least, greatest = (as_numpy(end)[:, None] for end in function.interval(lower, upper))
    assert (least - tolerance <= values).all() and (values <= greatest + tolerance).all()


@every_activation
@some_intervals
def test_the_interval_is_no_wider_than_the_values(name: str, intervals: list[tuple[float, float]]) -> None:
    function, textbook = ACTIVATIONS[name]
    lower, upper = ends_of(intervals)
    values, tolerance = textbook.value(grid_of(lower, upper)), rounding(lower, upper)
    least, greatest = (as_numpy(end)[:, None] for end in function.interval(lower, upper))
    assert (greatest <= values.max(axis=1, keepdims=True) + tolerance).all()
    # Near the minimum of a function that falls and rises, the minimum itself is good enough.
    assert (least >= values.min(axis=1, keepdims=True) - (tolerance if name in RISING else 1e-3)).all()


@pytest.mark.parametrize("name", RISING)
@some_intervals
def test_the_interval_of_a_rising_function_is_its_values_at_the_ends(
    name: str, intervals: list[tuple[float, float]]
) -> None:
    function = ACTIVATIONS[name][0]
    lower, upper = ends_of(intervals)
    least, greatest = function.interval(lower, upper)
    assert torch.equal(least, function(lower)) and torch.equal(greatest, function(upper))


@every_activation
@some_intervals
def test_the_lines_enclose_every_value(name: str, intervals: list[tuple[float, float]]) -> None:
    function, textbook = ACTIVATIONS[name]
    lower, upper = ends_of(intervals)
    points, tolerance = grid_of(lower, upper), rounding(lower, upper)
    values = textbook.value(points)
    a, b, c, d = (as_numpy(part)[:, None] for part in function.lines(lower, upper))
    # A coefficient's own rounding counts as often as the point is large.
    assert (a * points + b <= values + 10 * tolerance).all()
    assert (values <= c * points + d + 10 * tolerance).all()


@pytest.mark.parametrize("name", KINKED)
@some_intervals
def test_one_line_of_a_kinked_function_is_the_chord_and_the_other_goes_through_the_kink(
    name: str, intervals: list[tuple[float, float]]
) -> None:
    function, textbook = ACTIVATIONS[name]
    assert isinstance(function, Kinked)
    lower, upper = ends_of(intervals)
    lines = function.lines(lower, upper)
    above, below = (lines.upper_slope, lines.upper_offset), (lines.lower_slope, lines.lower_offset)
    chord, through = (above, below) if function.left <= 1 else (below, above)
    tolerance = 10 * rounding(lower, upper)[:, 0]
    for end in (lower, upper):
        expected = textbook.value(as_numpy(end))
        assert (np.abs(as_numpy(chord[0] * end + chord[1]) - expected) <= tolerance).all()
    assert through[1].eq(0).all()
    for low, high, slope in zip(lower.tolist(), upper.tolist(), through[0].tolist(), strict=True):
        if low < 0 < high:
            # Of the two slopes the one that leaves the smaller triangle: decided by the longer side.
            assert slope == (1.0 if high > -low else function.left)
        elif low < 0 or high > 0:
            assert slope == (1.0 if low >= 0 else function.left)


@cache
def bend_of(name: str) -> float:
    """max |f''| by central differences of f'."""
    points, slope = np.linspace(-10, 10, 40001), ACTIVATIONS[name][1].slope
    return float(np.abs((slope(points + 1e-5) - slope(points - 1e-5)) / 2e-5).max()) * 1.001


@pytest.mark.parametrize("name", SMOOTH)
@some_intervals
def test_lines_of_a_smooth_function_are_parallels_to_the_chord_and_nearly_touch(
    name: str, intervals: list[tuple[float, float]]
) -> None:
    function, textbook = ACTIVATIONS[name]
    lower, upper = ends_of(intervals)
    lines = function.lines(lower, upper)
    assert torch.equal(lines.lower_slope, lines.upper_slope)
    points, width = grid_of(lower, upper), as_numpy(upper - lower)
    slope = as_numpy(lines.lower_slope)
    wide = width > 1e-6
    ends = textbook.value(as_numpy(upper)) - textbook.value(as_numpy(lower))
    np.testing.assert_allclose((slope * width)[wide], ends[wide], rtol=1e-9, atol=1e-12)
    gap = textbook.value(points) - slope[:, None] * points
    # The grid has 32 cells: twice the sagitta of one cell is all that may be lost, and the rounding.
    lost = 2 * (width / 32) ** 2 / 8 * bend_of(name) + 20 * rounding(lower, upper)[:, 0] + 2e-12
    assert (gap.min(axis=1) - as_numpy(lines.lower_offset) <= lost).all()
    assert (as_numpy(lines.upper_offset) - gap.max(axis=1) <= lost).all()


@every_activation
@some_intervals
def test_the_slopes_contain_every_derivative(name: str, intervals: list[tuple[float, float]]) -> None:
    function, textbook = ACTIVATIONS[name]
    lower, upper = ends_of(intervals)
    points = torch.tensor(grid_of(lower, upper)).requires_grad_()
    (slopes,) = torch.autograd.grad(function(points).sum(), points)
    textbooks = textbook.slope(as_numpy(points))
    least, greatest = (as_numpy(end)[:, None] for end in function.slopes(lower, upper))
    at_kink = as_numpy(points) == 0 if isinstance(function, Kinked) else np.zeros(points.shape, dtype=bool)
    for derivatives in (as_numpy(slopes), textbooks):
        assert ((least - 1e-9 <= derivatives) | at_kink).all() and ((derivatives <= greatest + 1e-9) | at_kink).all()


@pytest.mark.parametrize("name", KINKED)
@some_intervals
def test_the_slopes_at_a_kink_are_both_one_sided_ones(name: str, intervals: list[tuple[float, float]]) -> None:
    function, textbook = ACTIVATIONS[name]
    lower, upper = ends_of(intervals)
    right, left = textbook.value(np.array([1.0]))[0], -textbook.value(np.array([-1.0]))[0]
    for low, high, least, greatest in zip(
        lower.tolist(), upper.tolist(), *(end.tolist() for end in function.slopes(lower, upper)), strict=True
    ):
        seen = [slope for slope, there in ((left, low <= 0), (right, high >= 0)) if there]
        assert (least, greatest) == (min(seen), max(seen))


@pytest.mark.parametrize("name", SMOOTH)
@some_intervals
def test_the_slopes_of_a_smooth_function_exceed_the_derivatives_by_the_documented_share(
    name: str, intervals: list[tuple[float, float]]
) -> None:
    function, textbook = ACTIVATIONS[name]
    lower, upper = ends_of(intervals)
    derivatives = textbook.slope(grid_of(lower, upper))
    least, greatest = (as_numpy(end) for end in function.slopes(lower, upper))
    lost = as_numpy(upper - lower) / 32 / 2 * bend_of(name) * 1.01 + 1e-9
    assert (greatest - derivatives.max(axis=1) <= lost).all() and (derivatives.min(axis=1) - least <= lost).all()
    assert (greatest <= function.steepest).all()


@every_activation
def test_the_steepest_slope_is_the_largest_anywhere(name: str) -> None:
    function, textbook = ACTIVATIONS[name]
    largest = np.abs(textbook.slope(np.linspace(-20, 20, 400001))).max()
    assert largest <= function.steepest <= 1.001 * largest


@pytest.mark.parametrize("name", SMOOTH)
def test_the_constants_of_a_smooth_function_are_rounded_in_the_safe_direction(name: str) -> None:
    function, textbook = ACTIVATIONS[name]
    assert isinstance(function, Smooth)
    points = np.linspace(-20, 20, 400001)
    slopes = textbook.slope(points)
    bend = np.abs((textbook.slope(points + 1e-5) - textbook.slope(points - 1e-5)) / 2e-5).max()
    assert bend * (1 - 1e-8) <= function.curvature <= 1.01 * bend
    assert slopes.min() - 5e-4 <= function.flattest <= slopes.min()
    values = textbook.value(points)
    if function.lowest is None:
        assert (np.diff(values) >= 0).all()
        return
    place, value = function.lowest
    assert values.min() - 1e-5 <= value <= values.min()
    assert abs(place - points[values.argmin()]) < 1e-3 - 1e-4  # within the margin that `interval` allows for


@every_activation
@some_intervals
def test_settled_means_that_a_smaller_interval_has_no_tighter_lines(
    name: str, intervals: list[tuple[float, float]]
) -> None:
    function, _ = ACTIVATIONS[name]
    lower, upper = ends_of(intervals)
    width = upper - lower
    lines, settled = function.lines(lower, upper), function.settled(lower, upper)
    middle = (lower + upper) / 2
    gap = (lines.upper_slope - lines.lower_slope) * middle + lines.upper_offset - lines.lower_offset
    assert (gap[settled].abs() <= 1e-11 * (1 + middle[settled].abs())).all()
    if isinstance(function, Kinked):
        assert torch.equal(~settled, (lower < 0) & (upper > 0))
    else:
        assert torch.equal(settled, width <= 1e-9)
