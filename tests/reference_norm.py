"""Norms from their definitions, one flat vector at a time; only order and scale are read from a `Norm`."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from scipy import optimize

from robust_student.core.norms import Norm
from robust_student.core.tensors import InputRange, Shape

Array = npt.NDArray[np.float64]


class ReferenceNorm:
    """A norm on single flat vectors, from the definitions."""

    def __init__(self, norm: Norm, shape: Shape) -> None:
        scale = np.ones(shape) if norm.scale is None else norm.scale.cpu().double().numpy()
        self.p = norm.p
        self.scale: Array = np.broadcast_to(scale, shape).ravel()

    def size(self, vector: Array) -> float:
        return self._order(self.p, [abs(v) / s for v, s in zip(vector, self.scale, strict=True)])

    def dual_size(self, gradient: Array) -> float:
        dual = {1.0: math.inf, 2.0: 2.0, math.inf: 1.0}[self.p]
        return self._order(dual, [abs(g) * s for g, s in zip(gradient, self.scale, strict=True)])

    def project(self, vector: Array, radius: float) -> Array:
        """Nearest point of the ball in scaled units; for l1 the threshold is found by root search."""
        scaled = vector / self.scale
        if self.size(vector) <= radius:
            return vector
        if self.p == math.inf:
            inside = np.array([min(max(v, -radius), radius) for v in scaled])
        elif self.p == 2:
            inside = scaled * radius / math.hypot(*scaled)
        else:
            excess: Callable[[float], float] = lambda t: sum(max(abs(v) - t, 0.0) for v in scaled) - radius  # noqa: E731
            threshold = optimize.brentq(excess, 0.0, max(abs(scaled)), xtol=1e-14, rtol=1e-14)
            inside = np.array([math.copysign(max(abs(v) - threshold, 0.0), v) for v in scaled])
        return inside * self.scale

    def step(self, point: Array, gradient: Array, size: float, limits: InputRange) -> Array:
        """Steepest feasible step: elements pushed out of the range do not count, the rest is clipped to it."""
        steepness = {}
        for i, (x, g) in enumerate(zip(point, gradient, strict=True)):
            blocked = (x <= limits.lower and g < 0) or (x >= limits.upper and g > 0)
            steepness[i] = 0.0 if blocked else g * self.scale[i]
        moved = point.copy()
        length = math.hypot(*steepness.values())
        left = size
        for i in sorted(steepness, key=lambda i: -abs(steepness[i])):
            if steepness[i] == 0:
                continue
            up = steepness[i] > 0
            if self.p == 1:
                room = (limits.upper - point[i] if up else point[i] - limits.lower) / self.scale[i]
                share = min(left, room)
                left -= share
                target = point[i] + (share if up else -share) * self.scale[i]
            elif self.p == 2:
                target = point[i] + size * self.scale[i] * steepness[i] / length
            else:
                target = point[i] + (size if up else -size) * self.scale[i]
            moved[i] = min(max(target, limits.lower), limits.upper)
        return moved

    def best_gain(self, point: Array, gradient: Array, size: float, limits: InputRange) -> float:
        """max <g, d> over ||d|| <= size and the range, as a linear programme in d = up - down (p = 1 or inf)."""
        count = len(point)
        room = np.concatenate([limits.upper - point, point - limits.lower])
        both = np.concatenate([self.scale, self.scale])
        if self.p == 1:
            budget: dict[str, object] = {"A_ub": [1 / both], "b_ub": [size]}
        else:
            budget, room = {}, np.minimum(room, size * both)
        bounds = [(0.0, None if math.isinf(r) else r) for r in room]
        unit = float(np.abs(gradient).max()) or 1.0
        exact = {"dual_feasibility_tolerance": 1e-10, "primal_feasibility_tolerance": 1e-10}  # else slopes < 1e-7 are 0
        costs = np.concatenate([-gradient, gradient]) / unit
        result = optimize.linprog(costs, bounds=bounds, options=exact, **budget)
        assert result.success and len(result.x) == 2 * count
        return -result.fun * unit

    @staticmethod
    def _order(p: float, magnitudes: Sequence[float]) -> float:
        if p == math.inf:
            return max(magnitudes)
        return sum(magnitudes) if p == 1 else math.hypot(*magnitudes)
