"""FAB (Croce & Hein 2020b): the nearest point of a target class, by projections onto linearised boundaries."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robust_student.attacks.attack import Attack
from robust_student.attacks.unscaled import in_turns, without_scale
from robust_student.core.margins import by_score, input_gradient
from robust_student.core.tensors import Inputs, Labels, answers, column
from robust_student.core.threat_model import ThreatModel

_STEPS = 100
TARGETS = 9
"""Rival classes that are aimed at, those of largest score first."""
_OVERSHOOT = 1.05
_BIAS = 0.1  # largest share of the step that is taken from the input instead of from the current point
_BACK = 0.9  # share of the way from the input to a success at which the search goes on
_ROUNDS = 60


@dataclass(frozen=True)
class Fab(Attack):
    """FAB aimed at the nearest rivals in turn; what is nearest but beyond the budget does not count."""

    @property
    def name(self) -> str:
        """As it stands in rows."""
        return "fab-t"

    @property
    def passes(self) -> int:
        """Of the steps."""
        return 3 * _STEPS * TARGETS

    def propose(
        self, network: nn.Module, inputs: Inputs, labels: Labels, threat: ThreatModel, seeds: Sequence[int]
    ) -> Inputs:
        """A misclassified point for every example for which one was met; the input for the others. No randomness."""

        def search(network: nn.Module, inputs: Tensor, threat: ThreatModel) -> Tensor:
            with torch.no_grad():
                rivals = by_score(network(inputs), labels)

            def run(turn: int, standing: Tensor) -> Tensor:
                part = inputs[standing]
                reached = fab(network, part, labels[standing], rivals[standing, turn], threat)
                near = threat.norm.size(reached - part) <= threat.budget
                return torch.where(column(near, part), reached, part)

            return in_turns(inputs, min(TARGETS, rivals.shape[1]), run)

        return without_scale(network, inputs, threat, search)


def fab(
    network: nn.Module,
    inputs: Inputs,
    labels: Labels,
    targets: Labels,
    threat: ThreatModel,
    *,
    steps: int = _STEPS,
) -> Inputs:
    """The nearest misclassified point met on the way to `targets` for every example; the input where none was met.

    The norm is minimised: the radius of `threat` only says when an example leaves, namely once it is broken within
    R; with a radius of 0 every example uses all the steps. Draws nothing at random. The norm must have
    no per-feature scale.
    """
    adversarial, nearest = inputs.clone(), inputs.new_full((len(inputs),), math.inf)
    positions = torch.arange(len(inputs), device=inputs.device)
    centres, points = inputs, inputs
    for _ in range(steps):
        if len(positions) == 0:
            break
        lead, slope = _linearised(network, points, labels[positions], targets[positions])
        at_centre = lead + (slope * (centres - points)).flatten(1).sum(dim=1)
        step = to_hyperplane(points, slope, lead, threat)
        home = to_hyperplane(centres, slope, at_centre, threat)
        far, near = (column(threat.norm.size(move).clamp_min(1e-8), points) for move in (step, home))
        bias = (far / (far + near)).clamp_max(_BIAS)
        points = threat.clip((1 - bias) * (points + _OVERSHOOT * step) + bias * (centres + _OVERSHOOT * home))
        with torch.no_grad():
            broken = answers(network(points)) != labels[positions]
        distance = threat.norm.size(points - centres)
        better = broken & (distance < nearest[positions])
        adversarial[positions[better]] = points[better]
        nearest[positions[better]] = distance[better]
        points = torch.where(column(broken, points), centres + _BACK * (points - centres), points)
        left = nearest[positions] > threat.budget
        if not bool(left.all()):
            positions, centres, points = positions[left], centres[left], points[left]
    return adversarial


def _linearised(network: nn.Module, points: Tensor, labels: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """f = z_t - z_y and its gradient."""
    points = points.detach().requires_grad_()
    with torch.enable_grad():
        logits = network(points)
        lead = (logits.gather(1, targets[:, None]) - logits.gather(1, labels[:, None]))[:, 0]
        slope = input_gradient(lead, points)
    return lead.detach(), slope.nan_to_num()


def to_hyperplane(points: Inputs, slope: Inputs, value: Tensor, threat: ThreatModel) -> Inputs:
    """The smallest d with `value + <slope, d> = 0` and z + d in the range; as near as the range lets it where none is.

    With c = |value| and room_i the way to the range's end in the useful direction: Linf and L2 take
    |d_i| = min(t u_i, room_i), u_i = 1 or |w_i|, with the least t for which sum |w_i| |d_i| = c, found by Newton's
    method on that concave function, from the left and exact after finitely many rounds; L1 takes the largest |w_i|
    first.
    """
    weight, target_sum = slope.flatten(1).abs(), value.abs()[:, None]
    direction = -slope.flatten(1).sign() * torch.where(value >= 0, 1.0, -1.0).to(slope)[:, None]
    flat = points.flatten(1)
    upper = torch.as_tensor(threat.input_range.upper).to(flat).expand(points.shape[1:]).flatten()
    lower = torch.as_tensor(threat.input_range.lower).to(flat).expand(points.shape[1:]).flatten()
    room = torch.where(direction > 0, upper - flat, flat - lower).clamp_min(0.0)
    room = torch.where(weight > 0, room, 0.0)
    if threat.norm.p == 1:
        length = _greedy(weight, room, target_sum)
    else:
        length = _spread(weight, torch.ones_like(weight) if threat.norm.p == math.inf else weight, room, target_sum)
    return (direction * length).view_as(points)


def _spread(weight: Tensor, unit: Tensor, room: Tensor, target_sum: Tensor) -> Tensor:
    """min(t u, room) with the least t that makes the weighted sum `target_sum`."""
    scale = torch.zeros_like(target_sum)
    for _ in range(_ROUNDS):
        free = scale * unit < room
        growth = (weight * unit * free).sum(dim=1, keepdim=True)
        filled = torch.where(free, 0.0, weight * room).sum(dim=1, keepdim=True)
        raised = torch.where(growth > 0, (target_sum - filled) / growth, scale)
        raised = torch.maximum(raised, scale)
        if torch.equal(raised, scale):
            break
        scale = raised
    return torch.minimum(scale * unit, room)


def _greedy(weight: Tensor, room: Tensor, target_sum: Tensor) -> Tensor:
    """Room used up in the order of falling weights until the weighted sum is `wanted`."""
    order = weight.argsort(dim=1, descending=True)
    weight, room = weight.gather(1, order), room.gather(1, order)
    before = torch.nn.functional.pad((weight * room).cumsum(dim=1)[:, :-1], (1, 0))
    missing = (target_sum - before).clamp_min(0.0)
    used = torch.minimum(missing / weight.clamp_min(torch.finfo(weight.dtype).tiny), room)
    return torch.zeros_like(used).scatter(1, order, used)
