"""APGD: its losses, and how its step falls."""

import math
from typing import Literal

import pytest
import reference
import torch
from torch import Tensor, nn

from robust_student.attacks.apgd import Apgd, apgd, cross_entropy, targeted_dlr, targeted_margin
from robust_student.core.norms import Norm, NormName
from robust_student.core.rng import generators
from robust_student.core.tensors import UNBOUNDED
from robust_student.core.threat_model import ThreatModel


def test_losses_are_those_of_their_formulas() -> None:
    logits = torch.tensor([[3.0, 1.0, 0.5, -2.0, 0.0], [0.0, 4.0, 2.0, 1.0, -1.0]], dtype=torch.float64)
    labels, targets, everyone = torch.tensor([0, 2]), torch.tensor([4, 1]), torch.arange(2)
    dlr = targeted_dlr(labels, targets)(logits, everyone)
    expected = [-(3.0 - 0.0) / (3.0 - (0.5 + 0.0) / 2), -(2.0 - 4.0) / (4.0 - (1.0 + 0.0) / 2)]
    assert dlr.tolist() == pytest.approx(expected)
    assert targeted_margin(labels, targets)(logits, everyone).tolist() == [-3.0, 2.0]
    expected = [-math.log(reference.softmax(row)[y]) for row, y in zip(logits.tolist(), [0, 2], strict=True)]
    assert cross_entropy(labels)(logits, everyone).tolist() == pytest.approx(expected)
    assert targeted_margin(labels, targets)(logits[1:], torch.tensor([1])).tolist() == [2.0]  # positions, not order


@pytest.mark.parametrize(("name", "norm"), [("ce", "linf"), ("t", "linf"), ("t", "l2"), ("margin", "l1")])
def test_screening_aims_at_every_rival_in_fewer_steps(name: Literal["ce", "t", "margin"], norm: NormName) -> None:
    """One pass ranks the rivals; every run looks once at its start and once after each step."""
    passes: list[int] = []

    class Out(nn.Module):
        def forward(self, points: Tensor) -> Tensor:
            passes.append(len(points))
            away = torch.tensor([9.0, 0.0, 0.1, 0.2, 0.3]) * torch.ones(len(points), 1)
            return away + 0.01 * points.flatten(1)[:, :5]

    threat = ThreatModel(Norm.named(norm), 0.1, UNBOUNDED)
    Apgd(name, 7).propose(Out(), torch.zeros(2, 6), torch.zeros(2, dtype=torch.long), threat, [0, 1])
    balls, rivals = 3 if norm == "l1" else 1, 1 if name == "ce" else 4
    assert sum(passes) == 2 * (1 + rivals * (7 + balls))


@pytest.mark.parametrize("power", [2.0, math.inf])
def test_apgd_halves_its_step_and_converges_where_a_fixed_step_circles(power: float) -> None:
    """A loss with one peak inside the ball: the best point comes near it although the first step is 2R."""
    peak = torch.tensor([[0.13, -0.21]], dtype=torch.float64)
    seen: list[Tensor] = []

    class Bowl(nn.Module):
        def forward(self, points: Tensor) -> Tensor:
            seen.append(points.detach().clone())
            height = -(points - peak).square().sum(dim=1)
            return torch.stack([torch.zeros_like(height), height - 1], dim=1)

    labels = torch.tensor([0])
    loss = targeted_margin(labels, torch.tensor([1]))
    zero = torch.zeros((1, 2), dtype=torch.float64)
    threat = ThreatModel(Norm(power), 1.0, UNBOUNDED)
    reached = apgd(Bowl(), loss, zero, labels, threat, generators([0], "test"))
    assert torch.equal(reached, zero)  # never broken
    visited = torch.cat(seen)
    assert len(visited) == 101 and bool((threat.norm.size(visited) <= 1 + 1e-9).all())
    nearest = (visited - peak).norm(dim=1)
    assert float(nearest.min()) < 0.01 < 0.1 < float(nearest[:20].max())
