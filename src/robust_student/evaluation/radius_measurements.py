"""Radii of every example: estimated, sampled, attacked, certified and smoothed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from robust_student.attacks.minimum_norm import smallest_confidence_loss, smallest_decision_change
from robust_student.attacks.pgd import Pgd
from robust_student.bounds.certified import Certifier
from robust_student.bounds.estimated import (
    estimated_confidence_radius,
    estimated_decision_radius,
    sampled_confidence_radius,
    sampled_decision_radius,
)
from robust_student.bounds.propagation import Method
from robust_student.bounds.smoothing import ABSTAIN, certified_smoothing_radius
from robust_student.core.norms import Norm
from robust_student.core.rng import example_seeds
from robust_student.core.tensors import answers
from robust_student.core.threat_model import ThreatModel
from robust_student.evaluation.measurements import Measure, MeasuredBatch, Measurement, radius_fields, rows_of
from robust_student.evaluation.settings import CertificationSettings, SmoothingSettings
from robust_student.models.model import Model
from robust_student.results.perturbation import CLEAN, Meaning, Perturbation
from robust_student.results.rows import Row

_AGREEMENT_STEPS = 50
"""PGD steps of the search for disagreement."""
_SMOOTHED = Perturbation("radius", "certified_smoothed", "l2")
"""The radius of a smoothed classifier, whose decision it is about."""

_Radii = Callable[[Model, MeasuredBatch], tuple[Tensor, list[str | None]]]
"""Radii of a batch with, for each, what produced it."""


def radius_plan(
    certifiers: Mapping[Method, Certifier],
    settings: CertificationSettings,
    threat: ThreatModel,
    budgets: Sequence[ThreatModel],
    teacher: Model | None,
    counts: Mapping[str, int],
) -> list[Measurement]:
    """What is measured on one model: on all `examples`, or on the `linear` ones where it is slow."""
    total, slow, seed = counts["examples"], counts["linear"], settings.seed
    radii = [budget.budget for budget in budgets]
    cells = [Measurement(CLEAN, [None], total, _clean)]
    meanings: tuple[Meaning, ...] = ("decision", "confidence") if teacher is not None else ("decision",)
    for meaning in meanings:
        methods = [
            ("estimated", total, _estimated(threat.norm, meaning)),
            ("sampled", slow, _sampled(threat, meaning, settings.sampled_points, seed)),
            ("attack", slow, _attacked(threat, meaning, settings.attacks, seed)),
        ]
        for method, certifier in certifiers.items():
            count = slow if method == "linear" else total
            methods.append((f"certified_{method}", count, _certified(certifier, radii, meaning)))
        named = [(Perturbation.radius(name, meaning, threat.norm.name), count, run) for name, count, run in methods]
        cells += [Measurement(kind, [None], count, _rows(kind, run)) for kind, count, run in named]
    if settings.smoothing.sigma is not None:
        count, run = min(total, settings.smoothing.examples), _smoothed(settings.smoothing, threat.norm, seed)
        cells.append(Measurement(_SMOOTHED, [None], count, run))
    if teacher is not None:
        kind = Perturbation("agreement", norm=threat.norm.name)
        cells += [Measurement(kind, [at.budget], slow, _agreement(kind, at, teacher, seed)) for at in budgets]
    return cells


def _rows(kind: Perturbation, radii: _Radii) -> Measure:
    """Rows of radii; `prediction` and `correct` are those of the clean input."""

    def run(model: Model, batch: MeasuredBatch) -> list[Row]:
        measured, details = radii(model, batch)
        values = [radius_fields(value, detail) for value, detail in zip(measured.tolist(), details, strict=True)]
        predictions = answers(model.logits(batch.inputs)).tolist()
        return [replace(row, **v) for row, v in zip(rows_of(batch, kind, None, predictions), values, strict=True)]

    return run


def _clean(model: Model, batch: MeasuredBatch) -> list[Row]:
    return rows_of(batch, CLEAN, None, answers(model.logits(batch.inputs)).tolist())


def _teacher_logits(batch: MeasuredBatch) -> Tensor:
    assert batch.teacher_logits is not None
    return batch.teacher_logits


def _estimate(model: Model, batch: MeasuredBatch, norm: Norm, meaning: Meaning) -> Tensor:
    points = batch.inputs.clone().requires_grad_()
    if meaning == "decision":
        return estimated_decision_radius(model(points), points, batch.labels, norm).detach()
    return estimated_confidence_radius(model(points), points, batch.labels, _teacher_logits(batch), norm).detach()


def _estimated(norm: Norm, meaning: Meaning) -> _Radii:
    def radii(model: Model, batch: MeasuredBatch) -> tuple[Tensor, list[str | None]]:
        return _estimate(model, batch, norm, meaning), [None] * len(batch.indices)

    return radii


def _sampled(threat: ThreatModel, meaning: Meaning, points: int, seed: int) -> _Radii:
    """The ball of the sampled radius is the estimated radius, or the threat model's where that is infinite."""

    def radii(model: Model, batch: MeasuredBatch) -> tuple[Tensor, list[str | None]]:
        ball = threat.at(torch.nan_to_num(_estimate(model, batch, threat.norm, meaning), posinf=threat.budget))
        inputs, labels, seeds = batch.inputs, batch.labels, example_seeds(seed, batch.indices)
        if meaning == "decision":
            sizes = sampled_decision_radius(model, inputs, labels, ball, points=points, seeds=seeds)
        else:
            scores = _teacher_logits(batch)
            sizes = sampled_confidence_radius(model, inputs, labels, scores, ball, points=points, seeds=seeds)
        return sizes, [None] * len(batch.indices)

    return radii


def _attacked(threat: ThreatModel, meaning: Meaning, attacks: Sequence[str], seed: int) -> _Radii:
    def radii(model: Model, batch: MeasuredBatch) -> tuple[Tensor, list[str | None]]:
        inputs, labels, seeds = batch.inputs, batch.labels, example_seeds(seed, batch.indices)
        if meaning == "decision":
            smallest = smallest_decision_change(model, inputs, labels, threat, seeds=seeds, attacks=attacks)
        else:
            smallest = smallest_confidence_loss(model, inputs, labels, _teacher_logits(batch), threat, seeds=seeds)
        return smallest.radius, [*smallest.attack]

    return radii


def _certified(certifier: Certifier, budgets: Sequence[float], meaning: Meaning) -> _Radii:
    def radii(model: Model, batch: MeasuredBatch) -> tuple[Tensor, list[str | None]]:
        if meaning == "decision":
            sizes = certifier.decision_radius(batch.inputs, batch.labels, budgets=budgets)
        else:
            scores = _teacher_logits(batch)
            sizes = certifier.confidence_radius(batch.inputs, batch.labels, scores, budgets=budgets)
        return sizes, [None] * len(batch.indices)

    return radii


def _smoothed(smoothing: SmoothingSettings, norm: Norm, seed: int) -> Measure:
    """Rows of the smoothed classifier: its own prediction (-1: it abstains); radius 0 where that is not the label."""
    assert smoothing.sigma is not None
    sigma = smoothing.sigma

    def run(model: Model, batch: MeasuredBatch) -> list[Row]:
        smoothed = certified_smoothing_radius(
            model,
            batch.inputs,
            norm=norm,
            sigma=sigma,
            samples=smoothing.samples,
            selection_samples=smoothing.selection_samples,
            alpha=smoothing.alpha,
            seeds=example_seeds(seed, batch.indices),
        )
        guesses = smoothed.prediction.tolist()
        details = ["abstain" if guess == ABSTAIN else None for guess in guesses]
        rows = zip(rows_of(batch, _SMOOTHED, None, guesses), smoothed.radius.tolist(), details, strict=True)
        return [replace(row, value=value if row.correct else 0.0, detail=detail) for row, value, detail in rows]

    return run


def _agreement(kind: Perturbation, threat: ThreatModel, teacher: Model, seed: int) -> Measure:
    """Whether any point tried within the budget makes teacher and student decide differently.

    Tried are x and PGD's points against what the teacher says at x, on the student and on the teacher, from one random
    start. `prediction` is the student's at the last point tried. NaN logits are no answer and never agree.
    """

    def run(model: Model, batch: MeasuredBatch) -> list[Row]:
        # Where logits are NaN any class will do: they never agree, see below.
        teacher_classes = answers(teacher.logits(batch.inputs)).clamp_min(0).to(batch.labels.device)
        pgd, seeds = Pgd(_AGREEMENT_STEPS), example_seeds(seed, batch.indices)
        agreed = torch.ones(len(teacher_classes), dtype=torch.bool)
        prediction = teacher_classes.cpu()
        for target in (model, teacher):
            for tried in (batch.inputs, pgd.propose(target, batch.inputs, teacher_classes, threat, seeds)):
                prediction = answers(model.logits(tried))
                agreed &= (prediction >= 0) & (prediction == answers(teacher.logits(tried)))
        rows = rows_of(batch, kind, threat.budget, prediction.tolist())
        return [replace(row, correct=same) for row, same in zip(rows, agreed.tolist(), strict=True)]

    return run
