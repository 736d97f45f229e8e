"""Honest evidence: several models on the same test examples under noise and attack, kept example by example."""

from collections.abc import Mapping
from pathlib import Path

from torch import nn

from robust_student.attacks.autoattack import AutoAttack
from robust_student.data.readers.load import Data, nested_sample
from robust_student.evaluation.attack_measurements import attack_plan
from robust_student.evaluation.corruption_measurements import (
    corruption_kinds,
    corruption_marks,
    corruption_plan,
    describe_corruptions,
)
from robust_student.evaluation.fingerprint import fingerprint
from robust_student.evaluation.gallery import gallery, worst_examples
from robust_student.evaluation.masking_checks import masking_plans, masking_verdict
from robust_student.evaluation.measured_run import Run
from robust_student.evaluation.measurements import plan
from robust_student.evaluation.result import Evaluation
from robust_student.evaluation.row_store import RowStore, Shard
from robust_student.evaluation.settings import EvaluationSettings
from robust_student.evaluation.threats import Threats
from robust_student.models.costs import batch_macs, costs
from robust_student.models.memory_format import channels_last
from robust_student.models.model import Model
from robust_student.results.breakdown import breakdown
from robust_student.results.perturbation import Perturbation
from robust_student.results.records import summarise
from robust_student.results.rows import BREAKDOWN, EVALUATION, GALLERY, Key, Row
from robust_student.runtime.files import write_json


def evaluate(
    models: Mapping[str, Model | nn.Module],
    data: Data,
    settings: EvaluationSettings | None = None,
    *,
    output: Path,
    shard: Shard | None = None,
) -> Evaluation:
    """Measure models on the same test examples; write rows, summary and provenance, and return them typed.

    Clean accuracy, noise, corruptions, PGD, AutoAttack with a masking verdict, estimated radii, size and speed. Rows
    are appended batch by batch: run again with the same arguments after an interruption and only the missing batches
    are computed, with the same result. Raises UserError on bad input and where `output` holds something else.

    Args:
        models: name -> model; a plain module must take inputs in the data's units and return logits.
        data: from `load_data`; only its test split is used.
        settings: what to measure.
        output: directory for rows.jsonl, summary.json, breakdown.json, evaluation.json and gallery.json.
        shard: the part of the batches that this process is to measure, with an empty summary; once all shards are
            done, the same call without one puts them together. The numbers are those of a single process.
    """
    settings = settings if settings is not None else EvaluationSettings()
    run = Run.begin("evaluate", models, data, settings)
    threats = Threats.of(data, settings)
    few = settings.corruptions.examples if corruption_kinds(settings.corruptions) else 0
    inner = [settings.attack_examples, settings.masking.examples, few]
    positions, (attacked, _, corrupted) = nested_sample(data.test.labels, settings.examples, inner, settings.seed)
    under_attack = attack_plan(threats, len(data.classes), settings, attacked)
    under_corruption = corruption_plan(data, settings, corrupted)
    checks = masking_plans(run.models, threats.autoattack, settings, attacked)
    marks = fingerprint(run.models, data, settings) | corruption_marks(settings.corruptions)
    store = RowStore.open(output, EVALUATION, marks, shard)
    sample = run.sample(data, positions)
    cells = plan(settings, data.input_range, threats.norms, len(positions), attacked, teacher=run.teacher is not None)
    plans = {name: cells + under_attack + under_corruption + checks[name] for name in run.models}
    work = {name: batch_macs([model], data.shape, settings.batch_size) for name, model in run.models.items()}
    with channels_last(run.models.values(), sample.inputs[:1]):
        used = store.fill(run.models, plans, sample, settings.batch_size, work)
    if shard is not None:
        return Evaluation(output, ())
    of_model = {name: {key[1:]: rows for key, rows in used.items() if key[0] == name} for name in run.models}
    records = summarise(
        {key: rows for key, rows in used.items() if Perturbation.parse(key[1]).family != "masking"},
        verdicts={name: masking_verdict(rows, threats, settings).as_dict() for name, rows in of_model.items()},
        costs={name: costs(model) for name, model in run.models.items()},
        baseline=run.baseline,
        seed=settings.seed,
    )
    if len(data.shape) == 3 and data.shape[0] in (1, 3):
        worst = worst_examples(run.models, data, used, threats.autoattack, settings)
        write_json(output / GALLERY, gallery(run.models, data, positions, settings.seed) + worst)
    suite = None if settings.autoattack == "none" else AutoAttack(settings.autoattack).suite(len(data.classes))
    details = {
        "skipped_certified": {name: _skipped(used, name) for name in run.models} if settings.skip_certified else None,
        "autoattack_suite": suite,
        "sample": {"test": len(data.test), "examples": len(positions), "attacked": attacked},
        "corruptions": describe_corruptions(settings.corruptions, corrupted),
        "classes": list(data.classes),
    }
    write_json(output / BREAKDOWN, breakdown(used))
    run.write(output, EVALUATION, details, records)
    return Evaluation.of(output, records)


def _skipped(groups: Mapping[Key, Mapping[int, Row]], name: str) -> int:
    """How many examples AutoAttack was spared because they are certified."""
    return sum(
        row.detail == "certified"
        for (model, kind, _), rows in groups.items()
        if model == name and Perturbation.parse(kind).name == "autoattack"
        for row in rows.values()
    )
