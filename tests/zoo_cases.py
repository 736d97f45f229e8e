"""Networks of the zoo under every norm, scale and range, a few for each."""

import itertools
import math

import numpy as np
import pytest
from reference import NORMS
from reference_norm import Array, ReferenceNorm
from scipy import optimize
from torch import Tensor
from zoo import ALL

from robust_student.bounds.ball import Ball
from robust_student.bounds.layers import Layers
from robust_student.bounds.propagation import METHODS_OF_BOUNDS
from robust_student.core.margins import margins
from robust_student.core.norms import Norm, NormName
from robust_student.core.tensors import UNBOUNDED, UNIT_RANGE, InputRange, Shape

every_norm = pytest.mark.parametrize("norm_name", NORMS)
every_method = pytest.mark.parametrize("method", METHODS_OF_BOUNDS)
SETTINGS: list[tuple[NormName, bool, InputRange]] = list(
    itertools.product(NORMS, (False, True), (UNIT_RANGE, UNBOUNDED))
)
CORE = ("conv with stride", "max pooling, overlapping", "silu", "concatenation")
DEEP = ("built-in resnet8", "built-in resnet20", "built-in cnn, large")


def settings_of(name: str) -> list[tuple[NormName, bool, InputRange]]:
    """All twelve for some networks; two, taking turns, for the others; one for the deepest."""
    start = list(ALL).index(name)
    if name in CORE:
        return SETTINGS
    if name in DEEP:
        return [SETTINGS[5 * start % 12]]
    return [SETTINGS[4 * ((start + k) % 3) + (start // 3 + k) % 4] for k in range(2)]


CASES = [(name, *setting) for name in ALL for setting in settings_of(name)]


def label_of(value: object) -> str:
    if isinstance(value, InputRange):
        return "in range" if value.bounded else "free"
    return {True: "scaled", False: "plain"}[value] if isinstance(value, bool) else str(value)


every_case = pytest.mark.parametrize(("name", "norm_name", "scaled", "limits"), CASES, ids=label_of)


def slack_of(values: Tensor) -> float:
    return 1e-9 * (1 + float(values.abs().max()))


def margins_at(layers: Layers, ball: Ball, labels: Tensor) -> Tensor:
    return margins(layers(ball.inputs), labels)


TURNS = [(name, NORMS[k % 3]) for k, name in enumerate(ALL)]
one_norm_each = pytest.mark.parametrize(("name", "norm_name"), TURNS)


def least_over(row: Array, x: Array, radius: float, norm: Norm, limits: InputRange, shape: Shape) -> float:
    """min <row, z> over the ball and the range: closed form without a range, else a clipped box or a search."""
    judge = ReferenceNorm(norm, shape)
    if not limits.bounded:
        return float(row @ x) - radius * judge.dual_size(row)
    if norm.p == math.inf:
        low, high = (np.clip(x + sign * radius * judge.scale, *limits) for sign in (-1, 1))
        return sum(w * (a if w > 0 else b) for w, a, b in zip(row, low, high, strict=True))
    if norm.p == 1:
        return float(row @ x) - judge.best_gain(x, -row, radius, limits)

    def moved(multiplier: float) -> Array:
        return np.clip(x - row * judge.scale**2 / multiplier, *limits) - x

    def excess(multiplier: float) -> float:
        return math.hypot(*(moved(multiplier) / judge.scale)) - radius

    least, most = 1e-12, judge.dual_size(row) / radius * (1 + 1e-9)
    if excess(least) <= 0:
        return float(row @ (x + moved(least)))
    return float(row @ (x + moved(optimize.brentq(excess, least, most, xtol=1e-15, rtol=1e-14))))
