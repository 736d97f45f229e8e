"""Both sides of the truth: for every example what is certified, what is estimated and what an attack found."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from robust_student.attacks.minimum_norm import require_attacks
from robust_student.bounds.certified import Certifier
from robust_student.bounds.propagation import Method
from robust_student.bounds.trace import trace
from robust_student.core.errors import UserError
from robust_student.core.threat_model import ThreatModel
from robust_student.data.readers.load import Data, nested_sample
from robust_student.evaluation.fingerprint import describe, fingerprint, prepare
from robust_student.evaluation.measurements import require_possible
from robust_student.evaluation.radius_measurements import _plan
from robust_student.evaluation.row_store import RowStore, Sample
from robust_student.evaluation.settings import CertificationSettings
from robust_student.models.model import Model
from robust_student.results.radii import summarise_radii
from robust_student.results.rows import CERTIFICATION, SUMMARY
from robust_student.runtime.files import read_json, write_json
from robust_student.runtime.hardware import resolve_device

RELATIVE_BUDGETS = (0.2, 0.5, 1.0)
"""Budgets in units of the norm's default radius, where the user gives none."""


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
    threat = ThreatModel.on(data, settings.norm)
    require_attacks(settings.attacks, threat.norm)
    budgets = _budgets(settings, threat)
    require_possible("budgets", [threat.at(budget) for budget in budgets], data)
    certifiers = _certifiers(ready, threat, data, settings)
    positions, (linear,) = nested_sample(data.test.labels, settings.examples, [settings.linear_examples], settings.seed)
    store = RowStore.open(output, CERTIFICATION, fingerprint(ready, data, settings))
    examples = data.test.subset(positions)
    inputs, labels = examples.floats().to(device), examples.labels.to(device)
    guide = ready.get(settings.teacher)
    teacher = None if guide is None else guide.logits(inputs).to(device)
    sample = Sample(positions, inputs, labels, teacher)
    plans = {name: _plan(name, settings, threat, budgets, certifiers, guide, len(positions), linear) for name in ready}
    rows = store.fill(ready, plans, sample, settings.batch_size)
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


def _budgets(settings: CertificationSettings, threat: ThreatModel) -> tuple[float, ...]:
    if settings.budgets is not None:
        return tuple(sorted(set(settings.budgets)))
    return tuple(float(f"{factor * threat.budget:.4g}") for factor in RELATIVE_BUDGETS)


def _certifiers(
    models: Mapping[str, Model], threat: ThreatModel, data: Data, settings: CertificationSettings
) -> dict[tuple[str, Method], Certifier]:
    """Traces every network before anything is measured: a refusal comes at once."""
    if not settings.methods:
        return {}
    linear = _linear_models(models, settings)
    graphs = {name: trace(model, data.shape) for name, model in models.items()}
    return {
        (name, method): Certifier(graph, threat, method, settings.tolerance)
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
