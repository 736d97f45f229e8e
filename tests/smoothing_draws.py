"""How smoothed classifiers are certified in their tests, and affine ones whose radius is known."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pytest
import torch
from reference import affine, norm_for
from reference_norm import Array, ReferenceNorm
from torch import Tensor, nn

from robust_student.bounds.smoothing import SmoothedRadius, certified_smoothing_radius
from robust_student.core.norms import Norm
from robust_student.core.tensors import Shape

SHAPE: Shape = (2, 3)
L2 = Norm.named("l2")
RARE = 1e-7
"""Chance with which a statistical test would fail for another choice of its seeds."""
with_and_without_scale = pytest.mark.parametrize("scaled", [False, True], ids=["plain", "scaled"])


class Draws(NamedTuple):
    """How much is drawn, and how sure the bound is."""

    sigma: float
    samples: int
    selection_samples: int
    alpha: float


def certify(
    network: nn.Module,
    inputs: Tensor,
    draws: Draws,
    seeds: Sequence[int] | None = None,
    *,
    norm: Norm = L2,
    chunk: int = 1000,
) -> SmoothedRadius:
    return certified_smoothing_radius(
        network,
        inputs,
        norm=norm,
        sigma=draws.sigma,
        samples=draws.samples,
        selection_samples=draws.selection_samples,
        alpha=draws.alpha,
        seeds=range(len(inputs)) if seeds is None else seeds,
        chunk=chunk,
    )


class Halfspaces(NamedTuple):
    """A binary affine classifier, inputs, and what is true of its smoothed version there."""

    network: nn.Module
    norm: Norm
    inputs: Tensor
    decision: list[int]
    radius: Array


def halfspaces(sizes: Array, scaled: bool, device: torch.device) -> Halfspaces:
    """One input per wanted radius |w.x + b| / ||w||*, on either side of the boundary in turns."""
    norm = norm_for("l2", SHAPE, scaled, device)
    normal, bias = torch.linspace(-1.0, 1.5, 6, dtype=torch.float64), 0.3
    network = affine(torch.stack([normal, torch.zeros(6)]), torch.tensor([bias, 0.0])).double().to(device)
    slope = ReferenceNorm(norm, SHAPE).dual_size(normal.numpy())
    signs = np.where(np.arange(len(sizes)) % 2 == 0, 1.0, -1.0)
    along = (signs * sizes * slope - float(torch.tensor(bias))) / float(normal.square().sum())
    inputs = (torch.tensor(along)[:, None] * normal).view(-1, *SHAPE)
    return Halfspaces(network, norm, inputs.to(device), (signs < 0).astype(int).tolist(), sizes)
