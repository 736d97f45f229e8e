"""Scalar activation functions as a verifier needs them: value bounds, linear bounds and slope bounds on an interval."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

Interval: TypeAlias = tuple[Tensor, Tensor]
"""Element-wise lower and upper ends."""
_CELLS = 32  # cells of the grid on which a smooth function's linear bounds are checked


class Lines(NamedTuple):
    """Two lines with `lower_slope x + lower_offset <= f(x) <= upper_slope x + upper_offset` on [l, u]."""

    lower_slope: Tensor
    lower_offset: Tensor
    upper_slope: Tensor
    upper_offset: Tensor


@dataclass(frozen=True)
class Kinked:
    """f(x) = x for x > 0, left x for x < 0: ReLU (0), leaky ReLU (a), absolute value (-1)."""

    left: float

    @property
    def steepest(self) -> float:
        """max(1, |left|)."""
        return max(1.0, abs(self.left))

    def __call__(self, x: Tensor) -> Tensor:
        """f(x)."""
        return functional.relu(x) if self.left == 0 else functional.leaky_relu(x, self.left)

    def interval(self, lower: Tensor, upper: Tensor) -> Interval:
        """The values at the ends, and 0 where the kink is a minimum inside."""
        first, last = self(lower), self(upper)
        if self.left >= 0:
            return first, last
        inside = (lower < 0) & (upper > 0)
        return torch.minimum(first, last).masked_fill(inside, 0.0), torch.maximum(first, last)

    def lines(self, lower: Tensor, upper: Tensor) -> Lines:
        """The chord on one side, a line through the kink on the other (Zhang et al. 2018, section 3.2).

        Of the lines through the kink the one that leaves the smaller area is taken.
        """
        crossing = (lower < 0) & (upper > 0)
        own = self._slope_where(lower >= 0, lower)
        width = torch.where(crossing, upper - lower, 1.0)
        chord = torch.where(crossing, (upper - self.left * lower) / width, own)
        offset = torch.where(crossing, upper - chord * upper, 0.0)
        through = torch.where(crossing, self._slope_where(upper > -lower, lower), own)
        zero = torch.zeros_like(lower)
        if self.left <= 1:
            return Lines(through, zero, chord, offset)
        return Lines(chord, offset, through, zero)

    def slopes(self, lower: Tensor, upper: Tensor) -> Interval:
        """Both slopes where the kink is inside or at an end."""
        both = (lower <= 0) & (upper >= 0)
        only = self._slope_where(upper >= 0, lower)
        return torch.where(both, min(self.left, 1.0), only), torch.where(both, max(self.left, 1.0), only)

    def settled(self, lower: Tensor, upper: Tensor) -> Tensor:
        """Where the kink is outside."""
        return (lower >= 0) | (upper <= 0)

    def _slope_where(self, right: Tensor, like: Tensor) -> Tensor:
        """1 to the right of the kink, `left` to its left, in full precision (two numbers alone would be float32)."""
        return torch.where(right, torch.ones_like(like), torch.full_like(like, self.left))


@dataclass(frozen=True)
class Smooth:
    """A twice differentiable function; its linear bounds are checked on a grid and widened by the curvature between.

    Between neighbours of a grid of spacing h, `f - line` is at least its smaller end minus `h^2 / 8 max |f''|`, and f'
    differs from the nearer neighbour's by at most `h / 2 max |f''|`: the bounds are sound, not sampled.
    """

    function: Callable[[Tensor], Tensor]
    derivative: Callable[[Tensor], Tensor]
    curvature: float
    """max |f''|, rounded up."""
    flattest: float
    """min f', rounded down."""
    steepest: float
    """max f', rounded up; at least |min f'|."""
    lowest: tuple[float, float] | None = None
    """(x, f(x) rounded down) of the only minimum, f falling before and rising after; None: f rises everywhere."""

    def __call__(self, x: Tensor) -> Tensor:
        """f(x)."""
        return self.function(x)

    def interval(self, lower: Tensor, upper: Tensor) -> Interval:
        """The values at the ends, and the minimum where it is inside."""
        first, last = self(lower), self(upper)
        least = torch.minimum(first, last)
        if self.lowest is not None:
            place, value = self.lowest
            margin = 1e-3  # the place is known to fewer digits than the value: the slope there is 0
            least = torch.where((lower < place + margin) & (upper > place - margin), value, least)
        return least, torch.maximum(first, last)

    def lines(self, lower: Tensor, upper: Tensor) -> Lines:
        """Two parallels to the chord, moved apart until they hold."""
        width = upper - lower
        flat = width <= 1e-9
        first, last = self(lower), self(upper)
        chord = torch.where(flat, self.derivative(lower), (last - first) / torch.where(flat, 1.0, width))
        grid = self._grid(lower, upper)
        gap = self(grid) - chord[..., None] * grid
        slack = (width / _CELLS).square() * self.curvature / 8 + 1e-12
        return Lines(chord, gap.amin(-1) - slack, chord, gap.amax(-1) + slack)

    def slopes(self, lower: Tensor, upper: Tensor) -> Interval:
        """Range of f' on the grid, widened, within its global range."""
        derivatives = self.derivative(self._grid(lower, upper))
        slack = (upper - lower) / _CELLS * self.curvature / 2 + 1e-12
        least = (derivatives.amin(-1) - slack).clamp_min(self.flattest)
        return least, (derivatives.amax(-1) + slack).clamp_max(self.steepest)

    def settled(self, lower: Tensor, upper: Tensor) -> Tensor:
        """Nowhere, but for points."""
        return upper - lower <= 1e-9

    def _grid(self, lower: Tensor, upper: Tensor) -> Tensor:
        share = torch.linspace(0, 1, _CELLS + 1, dtype=lower.dtype, device=lower.device)
        return lower[..., None] + (upper - lower)[..., None] * share


Activation: TypeAlias = Kinked | Smooth
"""Both answer the same questions, and every answer holds on the whole interval [l, u]."""


def _silu_slope(x: Tensor) -> Tensor:
    gate = x.sigmoid()
    return gate * (1 + x * (1 - gate))


def _gelu_slope(x: Tensor) -> Tensor:
    density = torch.exp(-x.square() / 2) / math.sqrt(2 * math.pi)
    return (1 + torch.erf(x / math.sqrt(2))) / 2 + x * density


def _gelu_tanh(x: Tensor) -> Tensor:
    return functional.gelu(x, approximate="tanh")


def _gelu_tanh_slope(x: Tensor) -> Tensor:
    root = math.sqrt(2 / math.pi)
    bend = torch.tanh(root * (x + 0.044715 * x**3))
    return (1 + bend) / 2 + x * (1 - bend.square()) * root * (1 + 3 * 0.044715 * x.square()) / 2


RELU = Kinked(0.0)
ABSOLUTE = Kinked(-1.0)
TANH = Smooth(torch.tanh, lambda x: 1 - torch.tanh(x).square(), 0.7699, 0.0, 1.0)
SIGMOID = Smooth(torch.sigmoid, lambda x: x.sigmoid() * (1 - x.sigmoid()), 0.0963, 0.0, 0.25)
SILU = Smooth(functional.silu, _silu_slope, 0.5001, -0.0999, 1.0999, (-1.27846, -0.278465))
GELU = Smooth(functional.gelu, _gelu_slope, 0.7979, -0.1290, 1.1290, (-0.75179, -0.169972))
GELU_TANH = Smooth(_gelu_tanh, _gelu_tanh_slope, 0.7980, -0.1292, 1.1292, (-0.75246, -0.170041))
