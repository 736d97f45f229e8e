"""The norm of a perturbation and what depends on it alone: dual, direction, projection, random perturbations."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from robust_student.core.errors import UserError
from robust_student.core.rng import Source, normal, uniform
from robust_student.core.tensors import Inputs, PerExample, Size, broadcastable, column

NormName = Literal["l1", "l2", "linf"]
_POWERS: dict[NormName, float] = {"l1": 1.0, "l2": 2.0, "linf": math.inf}


@dataclass(frozen=True, eq=False)
class Norm:
    """A p-norm on perturbations, optionally measured in units of a per-feature scale.

    `||d|| = || d / scale ||_p`; the dual norm of a gradient is `||g||* = || g * scale ||_q` with 1/p + 1/q = 1, so
    that `<g, d> <= ||g||* ||d||` (Hoelder). For images the scale is 1; for tabular data it is the training set's
    standard deviation per feature, so a radius of 0.1 means a tenth of a standard deviation.
    """

    p: float
    """Order of the norm: 1, 2 or infinity."""
    scale: Float[Tensor, "*shape"] | None = None
    """Positive unit of each feature, broadcastable to one input; None means 1."""

    def __post_init__(self) -> None:
        if self.p not in _POWERS.values():
            raise UserError(f"norm: p must be 1, 2 or inf, not {self.p}")
        if self.scale is not None and not bool((self.scale > 0).all()):
            raise UserError("norm: every element of the per-feature scale must be positive")

    @classmethod
    def named(cls, name: NormName, scale: Tensor | None = None) -> "Norm":
        """Build the norm called `l1`, `l2` or `linf`."""
        if name not in _POWERS:
            raise UserError(f"norm: unknown name '{name}', choose from {', '.join(_POWERS)}")
        return cls(_POWERS[name], scale)

    def other(self, name: NormName) -> "Norm":
        """The norm of that name in the same units."""
        return Norm.named(name, self.scale)

    @property
    def name(self) -> NormName:
        """`l1`, `l2` or `linf`."""
        return {power: name for name, power in _POWERS.items()}[self.p]

    @property
    def q(self) -> float:
        """Order of the dual norm, 1/p + 1/q = 1."""
        return {1.0: math.inf, 2.0: 2.0, math.inf: 1.0}[self.p]

    def unit(self, like: Inputs) -> float | Tensor:
        """The per-feature scale on the device and in the type of the inputs; 1 where there is none."""
        return 1.0 if self.scale is None else self.scale.to(like)

    def size(self, perturbation: Inputs) -> PerExample:
        """`||d||` of each example's perturbation, in units of the scale."""
        return torch.linalg.vector_norm(self._divide(perturbation).flatten(1), self.p, dim=1)

    def dual_size(self, gradient: Inputs) -> PerExample:
        """`||g||*` of each example's gradient: the largest slope a perturbation of unit size can find."""
        return torch.linalg.vector_norm(self._multiply(gradient).flatten(1), self.q, dim=1)

    def direction(self, gradient: Inputs) -> Inputs:
        """The perturbation d of unit size that maximises `<g, d>`; zero where the gradient is zero."""
        slope = self._multiply(gradient)
        if self.p == math.inf:
            unit = slope.sign()
        elif self.p == 2:
            # Divided by the largest element first: the squares of tiny or huge gradients leave float32's range.
            slope = slope / column(slope.flatten(1).abs().amax(dim=1).clamp_min(torch.finfo(slope.dtype).tiny), slope)
            unit = slope / column(torch.linalg.vector_norm(slope.flatten(1), dim=1).clamp_min(0.5), slope)
        else:
            flat = slope.flatten(1)
            steepest = flat.abs().argmax(dim=1, keepdim=True)
            unit = torch.zeros_like(flat).scatter(1, steepest, flat.gather(1, steepest).sign()).view_as(slope)
        return self._multiply(unit)

    def project(self, perturbation: Inputs, radius: Size) -> Inputs:
        """The point nearest to `perturbation` (in the scaled Euclidean sense) in the ball of the given radius."""
        scaled = self._divide(perturbation)
        flat = scaled.flatten(1)
        size = broadcastable(radius, flat)
        if self.p == math.inf:
            inside = flat.clamp_max(size).clamp_min(-size)
        elif self.p == 2:
            length = torch.linalg.vector_norm(flat, dim=1, keepdim=True)
            inside = flat * (size / length.clamp_min(torch.finfo(scaled.dtype).tiny)).clamp_max(1.0)
        else:
            inside = _project_l1(flat, size)
        return self._multiply(inside.view_as(scaled))

    def random(self, like: Inputs, radius: Size, source: Source = None) -> Inputs:
        """One perturbation per example, uniform in the ball of the given radius."""
        if self.p == math.inf:
            numbers = uniform(tuple(like.shape), like, source)
            return self._multiply((2 * numbers - 1) * broadcastable(radius, like))
        batch, size = like.shape[0], like.shape[1:].numel()
        if self.p == 2:
            direction = normal((batch, size), like, source)
            direction = direction / torch.linalg.vector_norm(direction, dim=1, keepdim=True)
            depth = uniform((batch, 1), like, source) ** (1 / size)
            flat = broadcastable(radius, direction) * depth * direction
        else:
            # Exponentials divided by their sum plus one more exponential are uniform in the simplex's interior.
            exponential = -torch.log1p(-uniform((batch, size + 1), like, source))
            signs = uniform((batch, size), like, source)
            flat = broadcastable(radius, signs) * exponential[:, :-1] / exponential.sum(dim=1, keepdim=True)
            flat = torch.where(signs < 0.5, flat, -flat)
        return self._multiply(flat.view_as(like))

    def random_each(self, like: Inputs, radius: Size, generators: Sequence[torch.Generator]) -> Inputs:
        """The same with a generator for each example, on the CPU: independent of batch and device."""
        radii = radius.tolist() if isinstance(radius, Tensor) else [radius] * len(like)
        draws = [self.random(x[None].cpu(), r, g) for x, r, g in zip(like, radii, generators, strict=True)]
        return torch.cat(draws).to(like) if draws else torch.zeros_like(like)

    def _multiply(self, values: Tensor) -> Tensor:
        return values if self.scale is None else values * self.scale.to(values)

    def _divide(self, values: Tensor) -> Tensor:
        return values if self.scale is None else values / self.scale.to(values)


def _project_l1(
    flat: Float[Tensor, "batch size"], radius: float | Float[Tensor, "batch 1"]
) -> Float[Tensor, "batch size"]:
    """Euclidean projection onto the L1 ball by soft thresholding (Duchi et al. 2008, figure 1)."""
    magnitude = flat.abs()
    ordered = magnitude.sort(dim=1, descending=True).values
    excess = ordered.cumsum(dim=1) - radius
    rank = torch.arange(1, flat.shape[1] + 1, device=flat.device, dtype=flat.dtype)
    active = (ordered * rank > excess).sum(dim=1, keepdim=True).clamp_min(1)
    threshold = (excess.gather(1, active - 1) / active).clamp_min(0.0)
    return flat.sign() * (magnitude - threshold).clamp_min(0.0)
