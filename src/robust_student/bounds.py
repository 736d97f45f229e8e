"""Bounds A and B on the perturbation that destroys the decision or the confidence (theory: docs/theory.md).

Everything here is *estimated*: the gradient is taken at x alone, to first order. None of it is a guarantee.
"""

import torch

from robust_student.margins import (
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
from robust_student.norms import Norm
from robust_student.tensors import Inputs, Labels, Logits, PerExample


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


def _ratio(numerator: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
    """numerator / slope with finite gradients; infinite where the slope is zero."""
    flat = slope <= torch.finfo(slope.dtype).eps ** 2
    return torch.where(flat, torch.inf, numerator / torch.where(flat, 1.0, slope))
