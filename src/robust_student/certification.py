"""Both sides of the truth: for every example what is certified, what is estimated and what an attack found."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robust_student.attacks.minimum_norm import require_attacks, smallest_confidence_loss, smallest_decision_change
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
from robust_student.bounds.trace import trace
from robust_student.core.errors import UserError
from robust_student.core.norms import Norm
from robust_student.core.rng import example_seeds
from robust_student.core.tensors import answers
from robust_student.data.readers.load import Data, nested_sample
from robust_student.ledger import Ledger, Sample, describe, fingerprint, prepare
from robust_student.measurement_settings import CertificationSettings
from robust_student.measurements import Batch, Measurement, radius_fields, require_possible, rows_of
from robust_student.models.model import Model
from robust_student.results.radii import summarise_radii
from robust_student.results.rows import CERTIFICATION, SUMMARY, Row
from robust_student.runtime.files import read_json, write_json
from robust_student.runtime.hardware import resolve_device

RELATIVE_BUDGETS = (0.2, 0.5, 1.0)
"""Budgets in units of the norm's default radius, where the user gives none."""

AGREEMENT_STEPS = 50
"""PGD steps of the search for disagreement."""

Radii = Callable[[Model, Batch], tuple[Tensor, list[str | None]]]
"""Radii of a batch with, for each, what produced it."""


def certify(
    models: Mapping[str, Model | nn.Module],
    data: Data,
    settings: CertificationSettings | None = None,
    *,
    output: Path,
) -> list[dict[str, Any]]:
    """Bound r_A and r_B of every example from below and from above; write the evidence, return the summary records.

    Estimated, sampled and certified radii (theorems A to D of docs/theory.md) and the smallest perturbation that
    attacks found. Rows are appended batch by batch: run again with the same arguments after an interruption and only
    the missing batches are computed, with the same result.

    Args:
        models: name -> model; a plain module must take inputs in natural units and return logits.
        data: from `load_data`; only its test split is used.
        settings: norm, methods, numbers of examples.
        output: directory for rows.jsonl, summary.json and certification.json.

    Raises UserError on bad input, where `output` holds something else, and where a network has an operation without a
    certified bound.
    """
    settings = settings if settings is not None else CertificationSettings()
    if not models:
        raise UserError("certify: no models given")
    device = resolve_device(settings.device)
    ready = {name: prepare(name, model, data, device) for name, model in models.items()}
    baseline = settings.baseline if settings.baseline is not None else ("kd" if "kd" in ready else None)
    if baseline is not None and baseline not in ready:
        raise UserError(f"certify: baseline '{baseline}' is not among the models ({', '.join(ready)})")
    if settings.smoothing.sigma is not None and settings.norm != "l2":
        raise UserError(f"certify: smoothing certifies l2 only, not {settings.norm}; pass --norm l2 or leave out sigma")
    norm = Norm.named(settings.norm, data.scale)
    require_attacks(settings.attacks, norm)
    budgets = _budgets(settings, norm, data)
    require_possible("budgets", budgets, norm, data)
    certifiers = _certifiers(ready, norm, data, settings)
    positions, (linear,) = nested_sample(data.test.labels, settings.examples, [settings.linear_examples], settings.seed)
    ledger = Ledger.open(output, CERTIFICATION, fingerprint(ready, data, settings))
    examples = data.test.subset(positions)
    inputs, labels = examples.floats().to(device), examples.labels.to(device)
    guide = ready.get(settings.teacher)
    teacher = None if guide is None else guide.logits(inputs).to(device)
    sample = Sample(positions, inputs, labels, teacher)
    plans = {
        name: _plan(name, settings, norm, data, budgets, certifiers, guide, len(positions), linear) for name in ready
    }
    rows = ledger.fill(ready, plans, sample, settings.batch_size)
    records = summarise_radii(
        rows, norm=settings.norm, budgets=budgets, baseline=baseline, teacher=settings.teacher, seed=settings.seed
    )
    details = read_json(output / CERTIFICATION) | {
        "baseline": baseline,
        "budgets": list(budgets),
        "sample": {"test": len(data.test), "examples": len(positions), "linear": linear},
        "classes": list(data.classes),
        "models": {name: describe(model) for name, model in ready.items()},
    }
    write_json(output / CERTIFICATION, details)
    write_json(output / SUMMARY, records)
    return records


def _budgets(settings: CertificationSettings, norm: Norm, data: Data) -> tuple[float, ...]:
    if settings.budgets is not None:
        return tuple(sorted(set(settings.budgets)))
    radius = norm.default_radius(data.input_range, data.shape)
    return tuple(float(f"{factor * radius:.4g}") for factor in RELATIVE_BUDGETS)


def _certifiers(
    models: Mapping[str, Model], norm: Norm, data: Data, settings: CertificationSettings
) -> dict[tuple[str, Method], Certifier]:
    """Traces every network before anything is measured: a refusal comes at once."""
    if not settings.methods:
        return {}
    linear = _linear_models(models, settings)
    graphs = {name: trace(model, data.shape) for name, model in models.items()}
    return {
        (name, method): Certifier(graph, norm, data.input_range, method, settings.tolerance)
        for name, graph in graphs.items()
        for method in settings.methods
        if method != "linear" or name in linear
    }


def _linear_models(models: Mapping[str, Model], settings: CertificationSettings) -> set[str]:
    if settings.linear_models is None:
        return set(models) - {settings.teacher} if len(models) > 1 else set(models)
    unknown = [name for name in settings.linear_models if name not in models]
    if unknown:
        raise UserError(f"certify: linear_models names '{unknown[0]}', which is not among {', '.join(models)}")
    return set(settings.linear_models)


def _plan(
    model: str,
    settings: CertificationSettings,
    norm: Norm,
    data: Data,
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
            (f"estimated_{meaning}", total, _estimated(norm, meaning)),
            (f"sampled_{meaning}", slow, _sampled(settings, norm, data, meaning)),
            (f"attack_{meaning}", slow, _attacked(settings, norm, data, meaning)),
        ]
        for method in (method for method in settings.methods if (model, method) in certifiers):
            count = slow if method == "linear" else total
            found.append((f"certified_{method}_{meaning}", count, _certified(certifiers, method, budgets, meaning)))
        named = [(f"{name}_radius_{norm.name}", count, radii) for name, count, radii in found]
        cells += [Measurement(name, None, count, _rows(name, radii)) for name, count, radii in named]
    if settings.smoothing.sigma is not None:
        count = min(total, settings.smoothing.examples)
        cells.append(Measurement("certified_smoothed_radius_l2", None, count, _smoothed(settings, norm)))
    if teacher is not None:
        cells += [
            Measurement(f"agreement_{norm.name}", budget, slow, _agreement(settings, norm, data, teacher, budget))
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


def _estimated(norm: Norm, meaning: str) -> Radii:
    def radii(model: Model, batch: Batch) -> tuple[Tensor, list[str | None]]:
        return _estimate(model, batch, norm, meaning), [None] * len(batch.indices)

    return radii


def _sampled(settings: CertificationSettings, norm: Norm, data: Data, meaning: str) -> Radii:
    """The ball of the sampled radius is the estimated radius, or the default one where that is infinite."""

    def radii(model: Model, batch: Batch) -> tuple[Tensor, list[str | None]]:
        default = norm.default_radius(data.input_range, data.shape)
        ball = torch.nan_to_num(_estimate(model, batch, norm, meaning), posinf=default)
        seeds, nothing = example_seeds(settings.seed, batch.indices), [None] * len(batch.indices)
        points, limits = settings.sampled_points, data.input_range
        if meaning == "decision":
            found = sampled_decision_radius(
                model, batch.inputs, batch.labels, norm, ball, input_range=limits, points=points, seeds=seeds
            )
            return found, [*nothing]
        assert batch.teacher_logits is not None
        found = sampled_confidence_radius(
            model,
            batch.inputs,
            batch.labels,
            batch.teacher_logits,
            norm,
            ball,
            input_range=limits,
            points=points,
            seeds=seeds,
        )
        return found, [*nothing]

    return radii


def _attacked(settings: CertificationSettings, norm: Norm, data: Data, meaning: str) -> Radii:
    def radii(model: Model, batch: Batch) -> tuple[Tensor, list[str | None]]:
        seeds = example_seeds(settings.seed, batch.indices)
        if meaning == "decision":
            found = smallest_decision_change(
                model,
                batch.inputs,
                batch.labels,
                norm=norm,
                input_range=data.input_range,
                seeds=seeds,
                attacks=settings.attacks,
            )
        else:
            assert batch.teacher_logits is not None
            found = smallest_confidence_loss(
                model,
                batch.inputs,
                batch.labels,
                batch.teacher_logits,
                norm=norm,
                input_range=data.input_range,
                seeds=seeds,
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
    settings: CertificationSettings, norm: Norm, data: Data, teacher: Model, budget: float
) -> Callable[[Model, Batch], list[Row]]:
    """Whether any point tried within the budget makes teacher and student decide differently.

    Tried are x and PGD's points against what the teacher says at x, on the student and on the teacher, from one random
    start. `prediction` is the student's at the last point tried. NaN logits are no answer and never agree.
    """

    def run(model: Model, batch: Batch) -> list[Row]:
        said = answers(teacher.logits(batch.inputs)).clamp_min(0).to(batch.labels.device)  # NaN: any class, see below
        seeds = example_seeds(settings.seed, batch.indices)
        draws = [
            norm.random(x[None].cpu(), budget, torch.Generator().manual_seed(seed % 2**32))
            for x, seed in zip(batch.inputs, seeds, strict=True)
        ]
        start = data.input_range.clip(batch.inputs + torch.cat(draws).to(batch.inputs))
        agreed = torch.ones(len(said), dtype=torch.bool)
        prediction = said.cpu()
        for target in (model, teacher):
            points = pgd(
                target,
                batch.inputs,
                said,
                norm=norm,
                radius=budget,
                steps=AGREEMENT_STEPS,
                input_range=data.input_range,
                start=start,
            )
            for tried in (batch.inputs, points):
                prediction = answers(model.logits(tried))
                agreed &= (prediction >= 0) & (prediction == answers(teacher.logits(tried)))
        name = f"agreement_{norm.name}"
        rows = zip(batch.indices, batch.labels.tolist(), prediction.tolist(), agreed.tolist(), strict=True)
        return [Row(batch.model, name, budget, index, label, guess, same) for index, label, guess, same in rows]

    return run
