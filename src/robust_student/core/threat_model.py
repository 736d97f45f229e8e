"""What an adversary may do: a ball of a norm around every input, cut to the range of valid inputs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from robust_student.core.norms import Norm, NormName
from robust_student.core.rng import Source, generator_each
from robust_student.core.tensors import InputRange, Inputs, PerExample, Shape, Size, broadcastable, column

_HALVINGS = 40  # of the threshold of the L1 projection
_FAR = 16.0  # L1 length of the Gaussian that L1 starts are projections of, in radii


@runtime_checkable
class Space(Protocol):
    """What a threat model needs to know of data: the shape of an input, its range, and the unit of each feature."""

    @property
    def shape(self) -> Shape:
        """Shape of one input."""

    @property
    def input_range(self) -> InputRange:
        """Where every element of a valid input lies."""

    @property
    def scale(self) -> Tensor | None:
        """Unit of each feature in which perturbations are measured; None means 1."""


@dataclass(frozen=True, eq=False)
class FeatureRange:
    """A range of valid inputs whose ends differ from feature to feature."""

    lower: Tensor
    """Broadcastable to one input; infinite: no limit."""
    upper: Tensor

    @property
    def bounded(self) -> bool:
        """Whether every end is finite."""
        return bool(self.lower.isfinite().all() and self.upper.isfinite().all())

    def clip(self, inputs: Inputs) -> Inputs:
        """Move every element to the nearest value inside the range."""
        return torch.clamp(inputs, self.lower.to(inputs), self.upper.to(inputs))


@dataclass(frozen=True, eq=False)
class ThreatModel:
    """{z : ||z - x||_p <= R, z in the input range} around every input x.

    The only place where norm, radius and range meet: it is made once, from settings and data, and handed on whole.
    """

    norm: Norm
    radius: Size
    """R in units of the norm: one for all inputs, or one per example."""
    input_range: InputRange | FeatureRange

    @classmethod
    def named(
        cls,
        name: NormName,
        radius: float | None,
        input_range: InputRange,
        shape: Sequence[int],
        scale: Tensor | None = None,
    ) -> "ThreatModel":
        """The threat model of the norm called `l1`, `l2` or `linf`; a radius of None is the norm's default one."""
        return cls.of(Norm.named(name, scale), radius, input_range, shape)

    @classmethod
    def on(cls, data: Space, name: NormName, radius: float | None = None) -> "ThreatModel":
        """The same for inputs like those of `data`."""
        return cls.named(name, radius, data.input_range, data.shape, data.scale)

    @classmethod
    def of(cls, norm: Norm, radius: float | None, input_range: InputRange, shape: Sequence[int]) -> "ThreatModel":
        """The same for a norm that exists already."""
        return cls(norm, _default_radius(norm, input_range, shape) if radius is None else radius, input_range)

    @property
    def budget(self) -> float:
        """R where it is one number for all inputs."""
        assert not isinstance(self.radius, Tensor)
        return self.radius

    def radii(self, inputs: Inputs) -> PerExample:
        """R of each of these inputs."""
        if isinstance(self.radius, Tensor):
            return self.radius.to(inputs)
        return inputs.new_full((len(inputs),), self.radius)

    def at(self, radius: Size) -> "ThreatModel":
        """The same norm and range with another radius."""
        return replace(self, radius=radius)

    def among(self, positions: Tensor) -> "ThreatModel":
        """The threat model of the examples at these positions of the batch."""
        return self.at(self.radius[positions]) if isinstance(self.radius, Tensor) else self

    def unscaled(self, inputs: Inputs) -> "ThreatModel":
        """The same set for inputs that are divided by the norm's per-feature scale: there the norm has none."""
        if self.norm.scale is None:
            return self
        unit = self.norm.scale.to(inputs)
        return ThreatModel(
            Norm(self.norm.p), self.radius, FeatureRange(self.input_range.lower / unit, self.input_range.upper / unit)
        )

    def clip(self, points: Inputs) -> Inputs:
        """Every element moved to the nearest valid value."""
        return self.input_range.clip(points)

    def project(self, points: Inputs, inputs: Inputs) -> Inputs:
        """Into the set around `inputs`: onto the ball first, into the range second."""
        return self.clip(inputs + self.norm.project(points - inputs, self.radius))

    def nearest(self, points: Inputs, inputs: Inputs) -> Inputs:
        """The nearest point of the set for Linf and L1; `project` for L2. The norm must have no scale.

        L1 with a range: Croce & Hein 2021, "Mind the box", proposition 2.1.
        """
        if self.norm.p == math.inf:
            reach = broadcastable(self.radius, inputs)
            return self.clip(torch.clamp(points, inputs - reach, inputs + reach))
        if self.norm.p == 2:
            return self.project(points, inputs)
        return self.clip(inputs + self._onto_l1(points - inputs, inputs))

    def random(self, inputs: Inputs, source: Source = None) -> Inputs:
        """x + d with d uniform in the ball, cut to the range."""
        return self.clip(inputs + self.norm.random(inputs, self.radius, source))

    def random_each(self, inputs: Inputs, seeds: Sequence[int]) -> Inputs:
        """The same with a seed for each example: what it gets depends neither on the batch nor on the device."""
        return self.clip(inputs + self.norm.random_each(inputs, self.radius, generator_each(seeds)))

    def surface(self, inputs: Inputs, generators: Sequence[torch.Generator]) -> Inputs:
        """A random point on the ball's surface, cut to the range; one generator per example. No scale, one radius.

        Linf: uniform; L2: a Gaussian direction; L1: the projection of a Gaussian far outside, which is sparse.
        """
        draw = torch.rand if self.norm.p == math.inf else torch.randn
        noise = torch.stack([draw(inputs.shape[1:], generator=generator) for generator in generators]).to(inputs)
        noise = 2 * noise - 1 if self.norm.p == math.inf else noise
        length = self.budget * (_FAR if self.norm.p == 1 else 1.0)
        scale = length / self.norm.size(noise).clamp_min(torch.finfo(noise.dtype).tiny)
        return self.nearest(inputs + noise * column(scale, noise), inputs)

    def step(self, points: Inputs, gradient: Inputs, size: Size) -> Inputs:
        """Move `points` by at most `size` in the steepest feasible direction of `gradient`, staying in the range.

        Elements that already sit at the end of the range towards which the gradient pushes do not count. For p = 1
        the step is the exact maximiser of `<g, d>` over the ball of that size intersected with the range: the steepest
        elements are moved to the end of the range one after the other until the size is used up.
        """
        limits = self.input_range
        outward = ((points <= limits.lower) & (gradient < 0)) | ((points >= limits.upper) & (gradient > 0))
        gradient = gradient.masked_fill(outward, 0.0)
        if self.norm.p == 1:
            return self.clip(points + self._fill(points, gradient, size))
        return self.clip(points + broadcastable(size, points) * self.norm.direction(gradient))

    def box(self, inputs: Inputs) -> tuple[Inputs, Inputs]:
        """Lower and upper ends of the smallest box around the set."""
        reach = broadcastable(self.radius, inputs) * self.norm.unit(inputs)
        return self.clip(inputs - reach), self.clip(inputs + reach)

    def farthest(self, inputs: Inputs) -> PerExample:
        """Size of the largest valid change of each input; infinite without a range."""
        return self.norm.size(torch.maximum(inputs - self.input_range.lower, self.input_range.upper - inputs))

    def widest(self, shape: Sequence[int]) -> float:
        """Size of the largest change of any input, from one end of the range to the other; infinite without a range."""
        if not self.input_range.bounded:
            return math.inf
        width = self.input_range.upper - self.input_range.lower
        return float(self.norm.size(torch.ones((1, *shape), dtype=torch.float64) * width))

    def _fill(self, points: Tensor, gradient: Tensor, size: Size) -> Tensor:
        unit = self.norm.unit(points)
        slope = (gradient * unit).flatten(1)
        limit = broadcastable(size, slope)
        upper, lower = self.input_range.upper - points, points - self.input_range.lower
        room = (torch.where(gradient > 0, upper, lower).clamp_min(0.0) / unit).flatten(1).clamp_max(limit)
        order = slope.abs().argsort(dim=1, descending=True)
        ordered = room.gather(1, order)
        used_before = ordered.cumsum(dim=1) - ordered
        amount = torch.minimum((limit - used_before).clamp_min(0.0), ordered)
        filled = torch.zeros_like(slope).scatter(1, order, amount) * slope.sign()
        return filled.view_as(points) * unit

    def _onto_l1(self, change: Tensor, inputs: Tensor) -> Tensor:
        """d_i = sign(c_i) min(max(|c_i| - t, 0), room_i) with t >= 0 the least that makes the sum at most R."""
        upper, lower = self.input_range.upper - inputs, inputs - self.input_range.lower
        room = torch.where(change > 0, upper, lower).clamp_min(0.0).flatten(1)
        length = change.abs().flatten(1)
        radius = broadcastable(self.radius, length)

        def shrunk(threshold: Tensor) -> Tensor:
            return torch.minimum((length - threshold).clamp_min(0.0), room)

        low, high = torch.zeros_like(length[:, :1]), length.amax(dim=1, keepdim=True)
        outside = shrunk(low).sum(dim=1, keepdim=True) > radius
        for _ in range(_HALVINGS if bool(outside.any()) else 0):
            middle = (low + high) / 2
            over = shrunk(middle).sum(dim=1, keepdim=True) > radius
            low, high = torch.where(over, middle, low), torch.where(over, high, middle)
        inside = shrunk(torch.where(outside, high, torch.zeros_like(high)))
        return (change.flatten(1).sign() * inside).view_as(change)


def _default_radius(norm: Norm, input_range: InputRange, shape: Sequence[int]) -> float:
    """A starting value for R where the user gives none (docs/objectives.md); search for a better one.

    Linf: 4/255 of the range for three-channel images, 0.1 of the range otherwise (0.1 scale units when there is no
    range); L2: 0.3 sqrt(d) times that; L1: 0.12 d times that, d being the number of elements. The factors are the
    proportions of the budgets customary in the literature (8/255, 0.5 and 12 on 32x32 RGB images).
    """
    colour = len(shape) == 3 and shape[0] == 3
    linf = (4 / 255 if colour else 0.1) * (input_range.width if input_range.bounded else 1.0)
    size = math.prod(shape)
    return {math.inf: linf, 2.0: 0.3 * math.sqrt(size) * linf, 1.0: 0.12 * size * linf}[norm.p]
