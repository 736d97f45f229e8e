"""Radii of every example: estimated, sampled, attacked, certified and smoothed."""

from collections.abc import Callable, Mapping
from dataclasses import asdict

import torch
from torch import Tensor

from robust_student.attacks.minimum_norm import smallest_confidence_loss, smallest_decision_change
from robust_student.attacks.pgd import pgd
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
from robust_student.evaluation.measurements import Batch, Measurement, radius_fields, rows_of
from robust_student.evaluation.settings import CertificationSettings
from robust_student.models.model import Model
from robust_student.results.rows import Row

AGREEMENT_STEPS = 50
"""PGD steps of the search for disagreement."""

Radii = Callable[[Model, Batch], tuple[Tensor, list[str | None]]]
"""Radii of a batch with, for each, what produced it."""


def _plan(
    model: str,
    settings: CertificationSettings,
    threat: ThreatModel,
    budgets: tuple[float, ...],
    certifiers: Mapping[tuple[str, Method], Certifier],
    teacher: Model | None,
    total: int,
    slow: int,
) -> list[Measurement]:
    cells = [Measurement("none", None, total, _clean)]
    meanings = ("decision", "confidence") if teacher is not None else ("decision",)
    for meaning in meanings:
        found = [
            (f"estimated_{meaning}", total, _estimated(threat, meaning)),
            (f"sampled_{meaning}", slow, _sampled(settings, threat, meaning)),
            (f"attack_{meaning}", slow, _attacked(settings, threat, meaning)),
        ]
        for method in (method for method in settings.methods if (model, method) in certifiers):
            count = slow if method == "linear" else total
            found.append((f"certified_{method}_{meaning}", count, _certified(certifiers, method, budgets, meaning)))
        named = [(f"{name}_radius_{threat.norm.name}", count, radii) for name, count, radii in found]
        cells += [Measurement(name, None, count, _rows(name, radii)) for name, count, radii in named]
    if settings.smoothing.sigma is not None:
        count = min(total, settings.smoothing.examples)
        cells.append(Measurement("certified_smoothed_radius_l2", None, count, _smoothed(settings, threat.norm)))
    if teacher is not None:
        cells += [
            Measurement(f"agreement_{threat.norm.name}", budget, slow, _agreement(settings, threat.at(budget), teacher))
            for budget in budgets
        ]
    return cells


def _rows(name: str, radii: Radii) -> Callable[[Model, Batch], list[Row]]:
    """Rows of radii; `prediction` and `correct` are those of the clean input."""

    def run(model: Model, batch: Batch) -> list[Row]:
        found, details = radii(model, batch)
        values = [radius_fields(radius, detail) for radius, detail in zip(found.tolist(), details, strict=True)]
        rows = zip(_clean(model, batch), values, strict=True)
        return [Row(**asdict(row) | {"perturbation": name} | value) for row, value in rows]

    return run


def _clean(model: Model, batch: Batch) -> list[Row]:
    predictions = answers(model.logits(batch.inputs)).tolist()
    return rows_of(batch, "none", None, predictions)


def _estimate(model: Model, batch: Batch, norm: Norm, meaning: str) -> Tensor:
    points = batch.inputs.clone().requires_grad_()
    if meaning == "decision":
        return estimated_decision_radius(model(points), points, batch.labels, norm).detach()
    assert batch.teacher_logits is not None
    return estimated_confidence_radius(model(points), points, batch.labels, batch.teacher_logits, norm).detach()


def _estimated(threat: ThreatModel, meaning: str) -> Radii:
    def radii(model: Model, batch: Batch) -> tuple[Tensor, list[str | None]]:
        return _estimate(model, batch, threat.norm, meaning), [None] * len(batch.indices)

    return radii


def _sampled(settings: CertificationSettings, threat: ThreatModel, meaning: str) -> Radii:
    """The ball of the sampled radius is the estimated radius, or the threat model's where that is infinite."""

    def radii(model: Model, batch: Batch) -> tuple[Tensor, list[str | None]]:
        ball = threat.at(torch.nan_to_num(_estimate(model, batch, threat.norm, meaning), posinf=threat.budget))
        seeds, nothing = example_seeds(settings.seed, batch.indices), [None] * len(batch.indices)
        points = settings.sampled_points
        if meaning == "decision":
            found = sampled_decision_radius(model, batch.inputs, batch.labels, ball, points=points, seeds=seeds)
            return found, [*nothing]
        assert batch.teacher_logits is not None
        found = sampled_confidence_radius(
            model, batch.inputs, batch.labels, batch.teacher_logits, ball, points=points, seeds=seeds
        )
        return found, [*nothing]

    return radii


def _attacked(settings: CertificationSettings, threat: ThreatModel, meaning: str) -> Radii:
    def radii(model: Model, batch: Batch) -> tuple[Tensor, list[str | None]]:
        seeds = example_seeds(settings.seed, batch.indices)
        if meaning == "decision":
            found = smallest_decision_change(
                model, batch.inputs, batch.labels, threat, seeds=seeds, attacks=settings.attacks
            )
        else:
            assert batch.teacher_logits is not None
            found = smallest_confidence_loss(
                model, batch.inputs, batch.labels, batch.teacher_logits, threat, seeds=seeds
            )
        return found.radius, [*found.attack]

    return radii


def _certified(
    certifiers: Mapping[tuple[str, Method], Certifier], method: Method, budgets: tuple[float, ...], meaning: str
) -> Radii:
    def radii(model: Model, batch: Batch) -> tuple[Tensor, list[str | None]]:
        certifier = certifiers[batch.model, method]
        if meaning == "decision":
            found = certifier.decision_radius(batch.inputs, batch.labels, budgets=budgets)
        else:
            assert batch.teacher_logits is not None
            found = certifier.confidence_radius(batch.inputs, batch.labels, batch.teacher_logits, budgets=budgets)
        return found, [None] * len(batch.indices)

    return radii


def _smoothed(settings: CertificationSettings, norm: Norm) -> Callable[[Model, Batch], list[Row]]:
    """Rows of the smoothed classifier: its own prediction (-1: it abstains); radius 0 where that is not the label."""
    smoothing = settings.smoothing
    assert smoothing.sigma is not None
    sigma = smoothing.sigma

    def run(model: Model, batch: Batch) -> list[Row]:
        found = certified_smoothing_radius(
            model,
            batch.inputs,
            norm=norm,
            sigma=sigma,
            samples=smoothing.samples,
            selection_samples=smoothing.selection_samples,
            alpha=smoothing.alpha,
            seeds=example_seeds(settings.seed, batch.indices),
        )
        rows = zip(batch.indices, batch.labels.tolist(), found.prediction.tolist(), found.radius.tolist(), strict=True)
        return [
            Row(
                batch.model,
                "certified_smoothed_radius_l2",
                None,
                index,
                label,
                guess,
                guess == label,
                value=radius if guess == label else 0.0,
                detail="abstain" if guess == ABSTAIN else None,
            )
            for index, label, guess, radius in rows
        ]

    return run


def _agreement(
    settings: CertificationSettings, threat: ThreatModel, teacher: Model
) -> Callable[[Model, Batch], list[Row]]:
    """Whether any point tried within the budget makes teacher and student decide differently.

    Tried are x and PGD's points against what the teacher says at x, on the student and on the teacher, from one random
    start. `prediction` is the student's at the last point tried. NaN logits are no answer and never agree.
    """

    def run(model: Model, batch: Batch) -> list[Row]:
        said = answers(teacher.logits(batch.inputs)).clamp_min(0).to(batch.labels.device)  # NaN: any class, see below
        start = threat.random_each(batch.inputs, example_seeds(settings.seed, batch.indices))
        agreed = torch.ones(len(said), dtype=torch.bool)
        prediction = said.cpu()
        for target in (model, teacher):
            points = pgd(target, batch.inputs, said, threat, steps=AGREEMENT_STEPS, start=start)
            for tried in (batch.inputs, points):
                prediction = answers(model.logits(tried))
                agreed &= (prediction >= 0) & (prediction == answers(teacher.logits(tried)))
        name = f"agreement_{threat.norm.name}"
        rows = zip(batch.indices, batch.labels.tolist(), prediction.tolist(), agreed.tolist(), strict=True)
        return [Row(batch.model, name, threat.budget, index, label, guess, same) for index, label, guess, same in rows]

    return run
