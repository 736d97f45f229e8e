"""The objective in the open, without any sharing of passes."""

import copy
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from reference import Batch, Setup, rows
from reference_norm import ReferenceNorm
from torch import Tensor, nn

from robust_student.core.margins import Form, Score
from robust_student.core.norms import Norm
from robust_student.objectives.distillation import DistillationSettings
from robust_student.objectives.score_hinge import ScoreSettings
from robust_student.objectives.settings import ObjectiveSettings


def _log_softmax(logits: Tensor) -> Tensor:
    return logits - logits.logsumexp(dim=1, keepdim=True)


def _rival_scores(values: Tensor, labels: Tensor) -> Tensor:
    """The scores of the classes other than the label, `(batch, classes - 1)`."""
    return torch.stack([torch.cat([row[:y], row[y + 1 :]]) for row, y in zip(values, labels.tolist(), strict=True)])


def _true_scores(values: Tensor, labels: Tensor) -> Tensor:
    return torch.stack([row[y] for row, y in zip(values, labels.tolist(), strict=True)])


def _score(logits: Tensor, score: Score) -> Tensor:
    return logits if score is Score.LOGIT else _log_softmax(logits).exp()


def plain_margin(logits: Tensor, labels: Tensor, score: Score) -> Tensor:
    values = _score(logits, score)
    return _true_scores(values, labels) - _rival_scores(values, labels).max(dim=1).values


def plain_divergence(logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    student, teacher = _log_softmax(logits / temperature), _log_softmax(teacher_logits / temperature)
    return temperature**2 * (teacher.exp() * (teacher - student)).sum(dim=1)


def plain_distillation(logits: Tensor, batch: Batch, settings: DistillationSettings) -> Tensor:
    hard = -_true_scores(_log_softmax(logits), batch.labels)
    soft = plain_divergence(logits, batch.teacher_logits, settings.temperature)
    return (1 - settings.soft_weight) * hard + settings.soft_weight * soft


def plain_score(logits: Tensor, batch: Batch, settings: ScoreSettings) -> Tensor:
    student, teacher = _score(logits, settings.score), _score(batch.teacher_logits, settings.score)
    teacher_score, reached = _true_scores(teacher, batch.labels), _true_scores(student, batch.labels)
    if settings.form is Form.TEACHER:
        return (teacher_score - reached + settings.slack).relu()
    teacher_score = teacher_score[:, None] - _rival_scores(teacher, batch.labels)
    reached = reached[:, None] - _rival_scores(student, batch.labels)
    hinge = (teacher_score - reached + settings.slack).relu()
    return hinge.max(dim=1).values if settings.reduce == "max" else hinge.mean(dim=1)


def plain_exact_slope(logits: Tensor, points: Tensor, labels: Tensor, norm: Norm, form: Form, score: Score) -> Tensor:
    value = _true_scores(_score(logits, score), labels) if form is Form.TEACHER else plain_margin(logits, labels, score)
    (gradient,) = torch.autograd.grad(value.sum(), points, create_graph=True)
    scale = torch.ones((), device=points.device) if norm.scale is None else norm.scale
    steepness = (gradient * scale).flatten(1).abs()
    if norm.p == 2:
        return (steepness**2).sum(dim=1)
    return (steepness.sum(dim=1) if norm.p == math.inf else steepness.max(dim=1).values) ** 2


def plain_ascent(
    network: Callable[[Tensor], Tensor],
    uphills: Sequence[Callable[[Tensor], Tensor]],
    inputs: Tensor,
    start: Tensor,
    setup: Setup,
    step_size: float,
) -> Tensor:
    """One step per function in `uphills`, each raised at its step; every example moved on its own."""
    reference = ReferenceNorm(setup.norm, tuple(inputs.shape[1:]))
    points = start.detach()
    for uphill in uphills:
        points = points.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(uphill(network(points)).sum(), points)
        moved = []
        for x, z, g in zip(rows(inputs), rows(points), rows(gradient), strict=True):
            target = reference.step(z, g, step_size, setup.input_range)
            reached = x + reference.project(target - x, setup.radius)
            moved.append(np.clip(reached, setup.input_range.lower, setup.input_range.upper))
        points = torch.tensor(np.stack(moved), device=inputs.device).view_as(inputs)
    return points.detach()


def plain_objective(
    student: nn.Module, batch: Batch, settings: ObjectiveSettings, setup: Setup, trained_at: Tensor, origin: Tensor
) -> Tensor:
    """The loss in the open: train at `trained_at`, climb from `origin`, penalise the end; exact gradient kind only.

    With the shared pass the first step climbs the training loss itself where the ascent is on the divergence.
    """
    secant = settings.secant

    def point_loss(logits: Tensor) -> Tensor:
        loss = plain_distillation(logits, batch, settings.distillation)
        return loss + settings.score.weight * plain_score(logits, batch, settings.score)

    def drop(logits: Tensor) -> Tensor:
        return -plain_margin(logits, batch.labels, secant.score)

    def divergence(logits: Tensor) -> Tensor:
        return plain_divergence(logits, batch.teacher_logits, settings.distillation.temperature)

    points = trained_at.clone().requires_grad_()
    logits = student(points)
    loss = point_loss(logits).mean()
    if settings.gradient.weight > 0:
        kind = settings.gradient
        slopes = plain_exact_slope(logits, points, batch.labels, setup.norm, kind.form, kind.score)
        loss = loss + kind.weight * slopes.mean()
    first = drop if secant.ascent == "drop" else point_loss if settings.shared_pass else divergence
    later = drop if secant.ascent == "drop" else divergence
    step = secant.step or {1: 1.25, 2: 0.75, 3: 0.5}[secant.steps]
    uphills = [first, *[later] * (secant.steps - 1)]
    reached = plain_ascent(copy.deepcopy(student), uphills, batch.inputs, origin, setup, step * setup.radius)
    end = student(reached)
    if secant.form == "divergence":
        return loss + secant.weight * divergence(end).mean()
    fall = plain_margin(logits, batch.labels, secant.score) - plain_margin(end, batch.labels, secant.score)
    reference = ReferenceNorm(setup.norm, tuple(batch.inputs.shape[1:]))
    distance = fall.new_tensor([reference.size(row) for row in rows(reached - trained_at)])
    return loss + secant.weight * ((fall.relu() / distance) ** 2).mean()
