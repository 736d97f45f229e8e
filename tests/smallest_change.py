"""The smallest change of a decision that attacks find, checked point by point."""

import math

import numpy as np
import pytest
import reference
import torch
from reference import NORMS, assert_rows, seeded
from reference_norm import Array, ReferenceNorm
from torch import Tensor, nn

from robust_student.attacks.minimum_norm import (
    DEFAULT_ATTACKS,
    MINIMUM_NORM_ATTACKS,
    Effort,
    Smallest,
    smallest_decision_change,
)
from robust_student.core.norms import Norm
from robust_student.core.tensors import InputRange, Shape
from robust_student.core.threat_model import ThreatModel

CPU = torch.device("cpu")
SHAPE: Shape = (1, 2, 3)
every_norm = pytest.mark.parametrize("name", NORMS)
with_and_without_scale = pytest.mark.parametrize("scaled", [False, True], ids=["plain", "scaled"])
EASY = Effort(budgets=10, pgd_steps=5, steps=40)
EVERY_PAIR = [(attack, norm) for attack in MINIMUM_NORM_ATTACKS for norm in MINIMUM_NORM_ATTACKS[attack].norms]
every_attack_and_norm = pytest.mark.parametrize(("attack", "name"), EVERY_PAIR)


def relu_student(shape: Shape, classes: int, seed: int = 0) -> nn.Module:
    """A ReLU MLP with kinks enough for the first-order estimate to be wrong."""

    def build() -> nn.Module:
        layers = [nn.Linear(math.prod(shape), 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, classes)]
        return nn.Sequential(nn.Flatten(), *layers)

    network = seeded(build, CPU, seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(2)
    return network


def find(
    network: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    norm: Norm,
    limits: InputRange,
    *,
    attacks: tuple[str, ...] = DEFAULT_ATTACKS,
    effort: Effort | None = None,
    seed: int = 0,
) -> Smallest:
    """The smallest decision change, checked by hand as every returned point must be."""
    seeds = range(seed, seed + len(inputs))
    smallest = smallest_decision_change(
        network,
        inputs,
        labels,
        ThreatModel.of(norm, None, limits, inputs.shape[1:]),
        seeds=seeds,
        attacks=attacks,
        effort=effort or Effort(),
    )
    with torch.no_grad():
        assert_verified(smallest, network(smallest.points).argmax(dim=1) != labels, inputs, norm, limits)
    return smallest


def assert_verified(smallest: Smallest, broken: Tensor, inputs: Tensor, norm: Norm, limits: InputRange) -> None:
    """Every finite radius belongs to a broken point of that size in the range; every infinite one to x itself."""
    oracle = ReferenceNorm(norm, tuple(inputs.shape[1:]))
    assert smallest.points.dtype is inputs.dtype and not smallest.points.requires_grad
    assert torch.equal(limits.clip(smallest.points), smallest.points)
    assert smallest.radius.isfinite().tolist() == broken.tolist()
    sizes = [oracle.size(row) for row in reference.rows(smallest.points) - reference.rows(inputs)]
    assert_rows(torch.where(smallest.radius.isfinite(), smallest.radius, 0.0), sizes)
    outside = {0.0: "clean", math.inf: "none"}
    for radius, attack in zip(smallest.radius.tolist(), smallest.attack, strict=True):
        assert attack == outside.get(radius, attack) and (radius in outside or attack in MINIMUM_NORM_ATTACKS)


def margins_of(network: nn.Module, points: Tensor, labels: Tensor) -> list[float]:
    with torch.no_grad():
        return [reference.margin(row, y) for row, y in zip(network(points).tolist(), labels.tolist(), strict=True)]


def distances(network: nn.Module, inputs: Tensor, labels: Tensor, norm: Norm) -> Array:
    """min_j m_j / ||w_y - w_j||_q: exact for an affine network without an input range."""
    pairs = zip(inputs, labels.tolist(), strict=True)
    return np.array([reference.decision_radius(network, x, y, norm) for x, y in pairs])


def assert_just_above(smallest: Smallest, true: Array, tolerance: float) -> None:
    """Never below the true radius, and at most `tolerance` above it."""
    ratio = smallest.radius.numpy() / true
    assert (ratio >= 1 - 1e-9).all() and (ratio <= 1 + tolerance).all(), ratio
