"""Both sides of the truth: for every example what is certified, what is estimated and what an attack found."""

from collections.abc import Mapping
from pathlib import Path

from torch import nn

from robust_student.attacks.minimum_norm import require_attacks
from robust_student.bounds.certified import Certifier
from robust_student.bounds.propagation import Method
from robust_student.bounds.trace import trace
from robust_student.core.errors import UserError
from robust_student.core.tensors import Shape
from robust_student.core.threat_model import ThreatModel
from robust_student.data.readers.load import Data, nested_sample
from robust_student.evaluation.measured_run import Run
from robust_student.evaluation.radius_measurements import radius_plan
from robust_student.evaluation.result import Certification
from robust_student.evaluation.row_store import RowStore, Shard
from robust_student.evaluation.settings import CertificationSettings
from robust_student.evaluation.threats import certified_threats
from robust_student.evaluation.workers import helped
from robust_student.models.model import Model
from robust_student.results.radii import summarise_radii
from robust_student.results.rows import CERTIFICATION


def certify(
    models: Mapping[str, Model | nn.Module],
    data: Data,
    settings: CertificationSettings | None = None,
    *,
    output: Path,
    shard: Shard | None = None,
    workers: int = 1,
) -> Certification:
    """Bound r_A and r_B of every example from below and from above; write the evidence, return it typed.

    Estimated, sampled and certified radii (theorems A to D of docs/theory.md) and the smallest perturbation that
    attacks found. Rows are appended batch by batch: run again with the same arguments after an interruption and only
    the missing batches are computed, with the same result.

    Args:
        models: name -> model; a plain module must take inputs in the data's units and return logits.
        data: from `load_data`; only its test split is used.
        settings: norm, methods, numbers of examples.
        output: directory for rows.jsonl, summary.json and certification.json.
        shard: the part of the batches that this process is to measure, as in `evaluate`.
        workers: processes that share the batches, as in `evaluate`.

    Raises UserError on bad input, where `output` holds something else, and where a network has an operation without a
    certified bound.
    """
    settings = settings if settings is not None else CertificationSettings()
    if workers != 1:
        with helped(certify, models, data, settings, output, workers, shard) as first:
            certify(models, data, settings, output=output, shard=first)
    run = Run.begin("certify", models, data, settings)
    threat, budgets, words = certified_threats(data, settings, run.models)
    norm = threat.norm.name
    settings = settings.model_copy(update={"norm": norm})
    if settings.smoothing.sigma is not None and norm != "l2":
        raise UserError(f"certify: smoothing certifies l2 only, not {norm}; pass --norm l2 or leave out sigma")
    require_attacks(settings.attacks, threat.norm)
    certifiers = _certifiers(run.models, threat, data.shape, settings)
    positions, (linear,) = nested_sample(data.test.labels, settings.examples, [settings.linear_examples], settings.seed)
    store = RowStore.open(
        output,
        CERTIFICATION,
        run.marks(data, settings),
        shard,
    )
    counts = {"examples": len(positions), "linear": linear}
    plans = {name: radius_plan(certifiers[name], settings, threat, budgets, run.teacher, counts) for name in run.models}
    rows = run.measure(plans, run.sample(data, positions), settings.batch_size, store, tuned=False)
    if shard is not None:
        return Certification(output, ())
    radii = [budget.budget for budget in budgets]
    records = summarise_radii(
        rows, norm=norm, budgets=radii, baseline=run.baseline, teacher=settings.teacher, seed=settings.seed
    )
    details = {
        "budgets": radii,
        "threat": words,
        "sample": {"test": len(data.test)} | counts,
        "classes": list(data.classes),
    }
    run.write(output, CERTIFICATION, details, records)
    return Certification.of(output, records)


def _certifiers(
    models: Mapping[str, Model], threat: ThreatModel, shape: Shape, settings: CertificationSettings
) -> dict[str, dict[Method, Certifier]]:
    """By model and method; traces every network before anything is measured: a refusal comes at once."""
    if not settings.methods:
        return {name: {} for name in models}
    linear = _linear_models(models, settings)
    graphs = {name: trace(model, shape) for name, model in models.items()}
    return {
        name: {
            method: Certifier(graph, threat, method, settings.tolerance)
            for method in settings.methods
            if method != "linear" or name in linear
        }
        for name, graph in graphs.items()
    }


def _linear_models(models: Mapping[str, Model], settings: CertificationSettings) -> set[str]:
    if settings.linear_models is None:
        return set(models) - {settings.teacher} if len(models) > 1 else set(models)
    unknown = [name for name in settings.linear_models if name not in models]
    if unknown:
        raise UserError(f"certify: linear_models names '{unknown[0]}', which is not among {', '.join(models)}")
    return set(settings.linear_models)
