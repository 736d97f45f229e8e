"""Bounds A and B on the perturbation that destroys the decision or the confidence (theory: docs/theory.md).

Everything here is *estimated* (the gradient is taken at x alone, to first order) or *sampled* (the largest of the
gradients at some points of the ball). None of it is a guarantee; those are in `certificates`.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from robust_student.core.margins import (
    Score,
    input_gradient,
    is_rival,
    jacobian,
    log_odds,
    margin,
    margins,
    scores,
    true_score,
)
from robust_student.core.module_state import evaluating
from robust_student.core.norms import Norm
from robust_student.core.rng import generator_each
from robust_student.core.tensors import Inputs, Labels, Logits, PerExample, column
from robust_student.core.threat_model import ThreatModel


def estimated_decision_radius(
    logits: Logits, inputs: Inputs, labels: Labels, norm: Norm, *, rivals: int | None = None, create_graph: bool = False
) -> PerExample:
    """First-order estimate of bound A, `min_j m_j(x)_+ / ||grad m_j(x)||_q`, on logits.

    `logits` must have been computed from `inputs`, which must require gradients. `rivals` limits the minimum to that
    many rival classes of smallest margin (None: all of them). 0 where the decision is already wrong, infinite where
    every slope is zero. Guo et al. 2018 (bound on the decision); first order as in Hein & Andriushchenko 2017, eq. 2.
    Units: those of the norm. Not a guarantee.
    """
    classes = logits.shape[1]
    count = classes - 1 if rivals is None else min(rivals, classes - 1)
    values = margins(logits, labels)
    ranked = values.detach().masked_fill(~is_rival(logits, labels), torch.inf).argsort(dim=1)[:, :count]
    nearest = values.gather(1, ranked)
    slopes = jacobian(nearest, inputs, create_graph=create_graph)
    sizes = torch.stack([norm.dual_size(slopes[:, j]) for j in range(count)], dim=1)
    radius = _ratio(nearest.clamp_min(0.0), sizes).amin(dim=1)
    return torch.where(margin(logits, labels) > 0, radius, torch.zeros_like(radius))


def estimated_confidence_radius(
    logits: Logits,
    inputs: Inputs,
    labels: Labels,
    teacher_logits: Logits,
    norm: Norm,
    *,
    score: Score = Score.LOGIT,
    create_graph: bool = False,
) -> PerExample:
    """First-order estimate of bound B, the distance at which S_y falls below the teacher's T_y.

    With `Score.PROBABILITY` it is literally `(S_y - T_y)_+ / ||grad S_y||_q`, which explodes as the softmax saturates.
    With `Score.LOGIT` (default, the one to report) both sides are put through the logit function first, a monotone
    change of units that leaves the event S_y < T_y, and so the true radius r_B, as it is:
    `(l_S - l_T)_+ / ||grad l_S||_q` with `l = log(P_y / (1 - P_y))`. 0 where S_y < T_y already; infinite where the
    slope is zero. Guo et al. 2018 (bound on the confidence). Units: those of the norm. Not a guarantee.
    """
    if score is Score.LOGIT:
        student, teacher = log_odds(logits, labels), log_odds(teacher_logits, labels)
    else:
        student = true_score(scores(logits, score), labels)
        teacher = true_score(scores(teacher_logits, score), labels)
    excess = student - teacher.detach()
    slope = norm.dual_size(input_gradient(student, inputs, create_graph=create_graph))
    radius = _ratio(excess.clamp_min(0.0), slope)
    return torch.where(excess > 0, radius, torch.zeros_like(radius))


def sampled_decision_radius(
    network: nn.Module,
    inputs: Inputs,
    labels: Labels,
    threat: ThreatModel,
    *,
    points: int = 16,
    seeds: Sequence[int],
) -> PerExample:
    """Bound A with the largest slopes found: `min(R, min_j m_j(x)_+ / max_z ||grad m_j(z)||_q)`, on logits.

    z runs over x itself, points drawn uniformly in the ball around each example, and an ascent that lowers
    the margin; `points` in all. `seeds`, one per example, make the draws independent of batching. 0 where the decision
    is wrong. A sound maximum would make it theorem A; this one is not, hence no guarantee. Units: those of the norm.
    """
    slopes = torch.zeros(1)
    for logits, visited in _visits(network, inputs, labels, threat, points, seeds):
        rows = jacobian(margins(logits, labels), visited)
        sizes = torch.stack([threat.norm.dual_size(rows[:, j]) for j in range(rows.shape[1])], dim=1)
        slopes = torch.maximum(slopes.to(sizes), sizes)
    values = margins(_logits(network, inputs), labels)
    ratios = _ratio(values.clamp_min(0.0), slopes).masked_fill(~is_rival(values, labels), torch.inf)
    return torch.minimum(threat.radii(inputs), ratios.amin(dim=1))


def sampled_confidence_radius(
    network: nn.Module,
    inputs: Inputs,
    labels: Labels,
    teacher_logits: Logits,
    threat: ThreatModel,
    *,
    points: int = 16,
    seeds: Sequence[int],
) -> PerExample:
    """Bound B with the largest slope found: `min(R, (l_S(x) - l_T(x))_+ / max_z ||grad l_S(z)||_q)`, on log-odds.

    Arguments as for `sampled_decision_radius`; 0 where S_y(x) < T_y(x). Not a guarantee.
    """
    slope = torch.zeros(1)
    for logits, visited in _visits(network, inputs, labels, threat, points, seeds):
        sizes = threat.norm.dual_size(input_gradient(log_odds(logits, labels), visited))
        slope = torch.maximum(slope.to(sizes), sizes)
    excess = log_odds(_logits(network, inputs), labels) - log_odds(teacher_logits, labels)
    return torch.minimum(threat.radii(inputs), _ratio(excess.clamp_min(0.0), slope))


def _visits(
    network: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    threat: ThreatModel,
    points: int,
    seeds: Sequence[int],
) -> Iterator[tuple[Tensor, Tensor]]:
    """Logits at x, at random points and along an ascent in the ball, with the points they belong to."""
    norm, reach = threat.norm, column(threat.radii(inputs), inputs)
    generators = generator_each(seeds)
    climbing = inputs
    for number in range(points):
        drawn = number % 2 == 1
        visited = threat.clip(inputs + reach * norm.random_each(inputs, 1.0, generators)) if drawn else climbing
        visited = visited.detach().clone().requires_grad_()
        with evaluating(network):
            logits = network(visited)
            yield logits, visited
            if not drawn:
                uphill = norm.direction(input_gradient(-margin(logits, labels), visited))
                moved = (visited.detach() + reach / 4 * uphill - inputs) / reach.clamp_min(1e-12)
                climbing = threat.clip(inputs + reach * norm.project(moved, 1.0))


def _logits(network: nn.Module, inputs: Tensor) -> Tensor:
    with torch.no_grad(), evaluating(network):
        return network(inputs)


def _ratio(numerator: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
    """numerator / slope with finite gradients; infinite where the slope is zero."""
    flat = slope <= torch.finfo(slope.dtype).eps ** 2
    return torch.where(flat, torch.inf, numerator / torch.where(flat, 1.0, slope))
