"""Honest evidence: several models on the same test examples under noise and attack, kept example by example."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from robust_student.core.errors import UserError
from robust_student.data.readers.load import Data, nested_sample
from robust_student.evaluation.corruption_measurements import (
    corruption_kinds,
    corruption_marks,
    corruption_plan,
    describe_corruptions,
)
from robust_student.evaluation.fingerprint import describe, fingerprint, prepare
from robust_student.evaluation.gallery import gallery, worst_examples
from robust_student.evaluation.masking_checks import PREFIX, masking_plans, masking_verdict
from robust_student.evaluation.measurements import autoattack_suite, plan, require_possible_budgets
from robust_student.evaluation.row_store import RowStore, Sample, Shard
from robust_student.evaluation.settings import EvaluationSettings
from robust_student.models.costs import batch_macs, costs
from robust_student.models.memory_format import channels_last
from robust_student.models.model import Model
from robust_student.results.breakdown import breakdown
from robust_student.results.records import summarise
from robust_student.results.rows import BREAKDOWN, EVALUATION, GALLERY, SUMMARY, Key, Row
from robust_student.runtime.files import read_json, write_json
from robust_student.runtime.hardware import resolve_device


def evaluate(
    models: Mapping[str, Model | nn.Module],
    data: Data,
    settings: EvaluationSettings | None = None,
    *,
    output: Path,
    shard: Shard | None = None,
) -> list[dict[str, Any]]:
    """Measure models on the same test examples; write rows, summary and provenance; return the summary records.

    Clean accuracy, noise, corruptions, PGD, AutoAttack with a masking verdict, estimated radii, size and speed. Rows
    are appended batch by batch: run again with the same arguments after an interruption and only the missing batches
    are computed, with the same result. Raises UserError on bad input and where `output` holds something else.

    Args:
        models: name -> model; a plain module must take inputs in natural units and return logits.
        data: from `load_data`; only its test split is used.
        settings: what to measure.
        output: directory for rows.jsonl, summary.json, breakdown.json, evaluation.json and gallery.json.
        shard: the part of the batches that this process is to measure, with an empty summary; once all shards are
            done, the same call without one puts them together. The numbers are those of a single process.
    """
    settings = settings if settings is not None else EvaluationSettings()
    device = resolve_device(settings.device)
    ready = {name: prepare(name, model, data, device) for name, model in models.items()}
    if not ready:
        raise UserError("evaluate: no models given")
    baseline = settings.baseline if settings.baseline is not None else ("kd" if "kd" in ready else None)
    if baseline is not None and baseline not in ready:
        raise UserError(f"evaluate: baseline '{baseline}' is not among the models ({', '.join(ready)})")
    few = settings.corruptions.examples if corruption_kinds(settings.corruptions) else 0
    require_possible_budgets(data, settings)
    inner = [settings.attack_examples, settings.masking.examples, few]
    sample, (attacked, _, corrupted) = nested_sample(data.test.labels, settings.examples, inner, settings.seed)
    under_corruption = corruption_plan(data, settings, corrupted)
    checks = masking_plans(ready, data, settings, attacked)
    marks = fingerprint(ready, data, settings) | corruption_marks(settings.corruptions)
    store = RowStore.open(output, EVALUATION, marks, shard)
    examples = data.test.subset(sample)
    inputs, labels = examples.floats().to(device), examples.labels.to(device)
    teacher = ready[settings.teacher].logits(inputs).to(device) if settings.teacher in ready else None
    cells = plan(data, settings, len(sample), attacked, teacher is not None) + under_corruption
    plans = {name: cells + checks[name] for name in ready}
    work = {name: batch_macs([model], data.shape, settings.batch_size) for name, model in ready.items()}
    with channels_last(ready.values(), inputs[:1]):
        used = store.fill(ready, plans, Sample(sample, inputs, labels, teacher), settings.batch_size, work)
    if shard is not None:
        return []
    mine = {name: {key[1:]: rows for key, rows in used.items() if key[0] == name} for name in ready}
    records = summarise(
        {key: rows for key, rows in used.items() if not key[1].startswith(PREFIX)},
        verdicts={name: masking_verdict(groups, data, settings).as_dict() for name, groups in mine.items()},
        costs={name: costs(model) for name, model in ready.items()},
        baseline=baseline,
        seed=settings.seed,
    )
    if len(data.shape) == 3 and data.shape[0] in (1, 3):
        worst = worst_examples(ready, data, used, settings)
        write_json(output / GALLERY, gallery(ready, data, sample, settings.seed) + worst)
    details = read_json(output / EVALUATION) | {
        "baseline": baseline,
        "skipped_certified": {name: _skipped(used, name) for name in ready} if settings.skip_certified else None,
        "autoattack_suite": autoattack_suite(data, settings).suite(len(data.classes))
        if settings.autoattack != "none"
        else None,
        "sample": {"test": len(data.test), "examples": len(sample), "attacked": attacked},
        "corruptions": describe_corruptions(settings.corruptions, corrupted),
        "classes": list(data.classes),
        "models": {name: describe(model) for name, model in ready.items()},
    }
    write_json(output / BREAKDOWN, breakdown(used))
    write_json(output / EVALUATION, details)
    write_json(output / SUMMARY, records)
    return records


def _skipped(groups: Mapping[Key, Mapping[int, Row]], name: str) -> int:
    """How many examples AutoAttack was spared because they are certified."""
    return sum(
        row.detail == "certified"
        for (model, kind, _), rows in groups.items()
        if model == name and kind.startswith("autoattack_")
        for row in rows.values()
    )
