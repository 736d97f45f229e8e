"""A network whose distances to its boundaries are known, and what attacks find on it."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
import reference
import torch
from reference import NORMS, as_numpy, linear_student
from reference_norm import Array, ReferenceNorm
from torch import Tensor, nn

from robust_student.attacks.apgd import Apgd
from robust_student.attacks.attack import Attack
from robust_student.attacks.fab import Fab
from robust_student.attacks.square import Square
from robust_student.core.norms import Norm
from robust_student.core.tensors import InputRange, Shape
from robust_student.core.threat_model import ThreatModel

CPU = torch.device("cpu")
POWERS = [1.0, 2.0, math.inf]
every_norm = pytest.mark.parametrize("name", NORMS)
every_power = pytest.mark.parametrize("power", POWERS)
PARTS: dict[str, Attack] = {a.name: a for a in (Apgd("ce"), Apgd("t"), Apgd("margin"), Fab(), Square(1000))}
"""The attacks of AutoAttack by name."""
ATTACKS = list(PARTS)


def propose(attack: str, network: nn.Module, inputs: Tensor, labels: Tensor, threat: ThreatModel) -> Tensor:
    """Points of one attack, forced into the ball and the range by the slow oracle."""
    points = PARTS[attack].propose(network, inputs, labels, threat, range(len(inputs)))
    assert points.shape == inputs.shape and points.dtype == inputs.dtype and not points.requires_grad
    assert torch.equal(threat.clip(points), points)
    oracle = ReferenceNorm(threat.norm, tuple(inputs.shape[1:]))
    forced = [
        x + oracle.project(z - x, threat.budget)
        for x, z in zip(reference.rows(inputs), reference.rows(points), strict=True)
    ]
    inside = threat.clip(torch.tensor(np.stack(forced)).view_as(inputs).to(inputs))
    # What is forced in was inside already, up to rounding: the attack knew the ball.
    torch.testing.assert_close(inside, points, atol=1e-4 * threat.budget + 1e-6, rtol=0)
    return inside


def distances(network: nn.Module, inputs: Tensor, labels: Tensor, norm: Norm) -> Array:
    """Distance of each input from the nearest boundary of an affine network without an input range."""
    weight, oracle = as_numpy(next(network.parameters())), ReferenceNorm(norm, tuple(inputs.shape[1:]))
    rows = network(inputs).tolist()
    return np.array(
        [
            min((row[y] - row[j]) / oracle.dual_size(weight[y] - weight[j]) for j in reference.rivals(row, y))
            for row, y in zip(rows, labels.tolist(), strict=True)
        ]
    )


class Target:
    """An affine network with examples whose distances to the nearest boundary are known."""

    def __init__(
        self,
        shape: Shape,
        classes: int,
        limits: InputRange,
        norm: Norm,
        examples: int = 12,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.network = linear_student(shape, classes, CPU).to(dtype)
        generator = torch.Generator().manual_seed(2)
        self.inputs = (0.5 + 0.05 * torch.randn((examples, *shape), generator=generator)).to(dtype)
        if not limits.bounded:
            self.inputs = 40 * self.inputs
        self.labels = self.network(self.inputs).argmax(dim=1)
        self.distances = distances(self.network, self.inputs, self.labels, norm)

    def broken(self, threat: ThreatModel, attacks: Sequence[str]) -> Array:
        """Which examples one of the attacks breaks."""
        broken = np.zeros(len(self.inputs), dtype=bool)
        for attack in attacks:
            points = propose(attack, self.network, self.inputs, self.labels, threat)
            broken |= (self.network(points).argmax(dim=1) != self.labels).numpy()
        return broken
