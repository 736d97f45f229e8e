"""Where an attack may go: the ball around each input, cut to the valid range, and the moves inside it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robust_student.core.norms import Norm
from robust_student.core.tensors import InputRange, Inputs, PerExample, column

_HALVINGS = 40
_FAR = 16.0  # L1 length of the Gaussian that L1 starts are projections of, in radii


@dataclass(frozen=True, eq=False)
class Feasible:
    """{z : ||z - x||_p <= R, lower <= z <= upper} around every input x, in units in which the norm has no scale."""

    p: float
    """1, 2 or infinity."""
    radius: float
    """R."""
    lower: float | Tensor
    """Smallest valid value, of all features or, broadcastable to one input, of each."""
    upper: float | Tensor
    """Largest valid value."""

    @classmethod
    def around(cls, inputs: Inputs, norm: Norm, radius: float, input_range: InputRange) -> "Feasible":
        """The set for a norm with or without a scale; its points are the inputs divided by the scale."""
        unit = norm.unit(inputs)
        return cls(norm.p, radius, input_range.lower / unit, input_range.upper / unit)

    def clip(self, points: Inputs) -> Inputs:
        """Every element moved to the nearest valid value."""
        return torch.clamp(points, torch.as_tensor(self.lower).to(points), torch.as_tensor(self.upper).to(points))

    def size(self, perturbation: Inputs) -> PerExample:
        """`||d||_p` of each example's perturbation."""
        return torch.linalg.vector_norm(perturbation.flatten(1), self.p, dim=1)

    def project(self, points: Inputs, centres: Inputs) -> Inputs:
        """Into the set: nearest for Linf and L1 (ball and range together), ball first and range second for L2.

        L1 with a range: Croce & Hein 2021, "Mind the box", proposition 2.1.
        """
        if self.p == math.inf:
            return self.clip(torch.clamp(points, centres - self.radius, centres + self.radius))
        if self.p == 2:
            change = points - centres
            length = self.size(change).clamp_min(torch.finfo(points.dtype).tiny)
            return self.clip(centres + change * column((self.radius / length).clamp_max(1.0), points))
        return self.clip(centres + self._onto_l1(points - centres, centres))

    def direction(self, gradient: Inputs) -> Inputs:
        """The perturbation d of unit size that maximises `<g, d>`; zero where the gradient is zero."""
        return Norm(self.p).direction(gradient)

    def start(self, centres: Inputs, generators: Sequence[torch.Generator]) -> Inputs:
        """A random point on the ball's surface, cut to the range; one generator per example.

        Linf: uniform; L2: a Gaussian direction; L1: the projection of a Gaussian far outside, which is sparse.
        """
        draw = torch.rand if self.p == math.inf else torch.randn
        noise = torch.stack([draw(centres.shape[1:], generator=generator) for generator in generators]).to(centres)
        noise = 2 * noise - 1 if self.p == math.inf else noise
        length = self.radius * (_FAR if self.p == 1 else 1.0)
        scale = length / self.size(noise).clamp_min(torch.finfo(noise.dtype).tiny)
        return self.project(centres + noise * column(scale, noise), centres)

    def _onto_l1(self, change: Tensor, centres: Tensor) -> Tensor:
        """d_i = sign(c_i) min(max(|c_i| - t, 0), room_i) with t >= 0 the least that makes the sum at most R."""
        upper = torch.as_tensor(self.upper).to(centres) - centres
        lower = centres - torch.as_tensor(self.lower).to(centres)
        room = torch.where(change > 0, upper, lower).clamp_min(0.0).flatten(1)
        length = change.abs().flatten(1)

        def shrunk(threshold: Tensor) -> Tensor:
            return torch.minimum((length - threshold).clamp_min(0.0), room)

        low, high = torch.zeros_like(length[:, :1]), length.amax(dim=1, keepdim=True)
        outside = shrunk(low).sum(dim=1, keepdim=True) > self.radius
        for _ in range(_HALVINGS if bool(outside.any()) else 0):
            middle = (low + high) / 2
            over = shrunk(middle).sum(dim=1, keepdim=True) > self.radius
            low, high = torch.where(over, middle, low), torch.where(over, high, middle)
        inside = shrunk(torch.where(outside, high, torch.zeros_like(high)))
        return (change.flatten(1).sign() * inside).view_as(change)


class Scaled(nn.Module):
    """A network of inputs that are measured in units of the norm's per-feature scale."""

    def __init__(self, network: nn.Module, unit: float | Tensor) -> None:
        super().__init__()
        self.network, self.unit = network, unit

    def forward(self, points: Tensor) -> Tensor:
        """Logits."""
        return self.network(points if isinstance(self.unit, float) else points * self.unit)
