"""Honest evidence: several models on the same test examples under noise and attack, kept example by example."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from robust_student.attacks.autoattack import AutoAttack
from robust_student.data.readers.load import Data, nested_sample
from robust_student.evaluation.attack_measurements import attack_plan
from robust_student.evaluation.corruption_measurements import (
    corruption_kinds,
    corruption_marks,
    corruption_plan,
    describe_corruptions,
)
from robust_student.evaluation.gallery import drawable, gallery
from robust_student.evaluation.masking_checks import masking_plans
from robust_student.evaluation.masking_verdict import masking_verdict
from robust_student.evaluation.measured_run import Run
from robust_student.evaluation.measurements import Measurement, plan
from robust_student.evaluation.result import Evaluation
from robust_student.evaluation.row_store import RowStore, Shard
from robust_student.evaluation.settings import EvaluationSettings
from robust_student.evaluation.threats import Threats
from robust_student.evaluation.workers import helped
from robust_student.models.costs import costs
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
    workers: int = 1,
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
        workers: processes that share the batches; the numbers are those of a single one. The others get the models by
            pickle, so their classes must be importable: those of a notebook or of the script itself are refused.
    """
    settings = settings if settings is not None else EvaluationSettings()
    if workers != 1:
        with helped(evaluate, models, data, settings, output, workers, shard) as first:
            evaluate(models, data, settings, output=output, shard=first)
    run = Run.begin("evaluate", models, data, settings)
    threats = Threats.of(data, settings, run.models)
    positions, counts = _sample(data, settings)
    plans = _plans(run, data, threats, settings, counts)
    marks = run.marks(data, settings) | corruption_marks(settings.corruptions)
    store = RowStore.open(output, EVALUATION, marks, shard)
    rows = run.measure(plans, run.sample(data, positions), settings.batch_size, store, tuned=True)
    if shard is not None:
        return Evaluation(output, ())
    details = {
        "skipped_certified": {name: _skipped(rows, name) for name in run.models} if settings.skip_certified else None,
        "autoattack_suite": _suite(settings, len(data.classes)),
        "threat": {
            "norm": threats.autoattack.norm.name,
            "radius": threats.autoattack.budget,
            "words": threats.words,
        },
        "sample": {"test": len(data.test), "examples": counts.examples, "attacked": counts.attacked},
        "corruptions": describe_corruptions(settings.corruptions, counts.corrupted),
        "classes": list(data.classes),
    }
    of_model = {name: {key[1:]: cell for key, cell in rows.items() if key[0] == name} for name in run.models}
    verdicts = {name: masking_verdict(cells, threats, settings).as_dict() for name, cells in of_model.items()}
    records = summarise(
        {key: cell for key, cell in rows.items() if Perturbation.parse(key[1]).family != "masking"},
        verdicts=verdicts,
        costs={name: costs(model) for name, model in run.models.items()},
        baseline=run.baseline,
        seed=settings.seed,
    )
    if drawable(data):
        write_json(output / GALLERY, gallery(run.models, data, positions, rows, threats.shown, settings))
    write_json(output / BREAKDOWN, breakdown(rows))
    run.write(output, EVALUATION, details, records)
    return Evaluation.of(output, records)


@dataclass(frozen=True)
class _Counts:
    """How many examples, from the front of the sample."""

    examples: int
    """All of them: clean and under noise."""
    attacked: int
    corrupted: int


def _sample(data: Data, settings: EvaluationSettings) -> tuple[Tensor, _Counts]:
    """Positions in the test set in the order measured, and how many of them each kind of measurement gets."""
    few = settings.corruptions.examples if corruption_kinds(settings.corruptions) else 0
    inner = [settings.attack_examples, settings.masking.examples, few]
    positions, (attacked, _, corrupted) = nested_sample(data.test.labels, settings.examples, inner, settings.seed)
    return positions, _Counts(len(positions), attacked, corrupted)


def _plans(
    run: Run, data: Data, threats: Threats, settings: EvaluationSettings, counts: _Counts
) -> dict[str, list[Measurement]]:
    """What is measured on each model; UserError where something cannot be."""
    attacks = attack_plan(threats, len(data.classes), settings, counts.attacked)
    corruptions = corruption_plan(data, settings, counts.corrupted)
    checks = masking_plans(run.models, threats, settings, counts.attacked)
    cells = plan(
        settings, data.input_range, threats.norms, counts.examples, counts.attacked, teacher=run.teacher is not None
    )
    return {name: cells + attacks + corruptions + checks[name] for name in run.models}


def _suite(settings: EvaluationSettings, classes: int) -> str | None:
    """The name under which AutoAttack's numbers may be quoted; None: it is not run."""
    return None if settings.autoattack == "none" else AutoAttack(settings.autoattack).suite(classes)


def _skipped(groups: Mapping[Key, Mapping[int, Row]], name: str) -> int:
    """How many examples AutoAttack was spared because they are certified."""
    return sum(
        row.detail == "certified"
        for (model, kind, _), rows in groups.items()
        if model == name and Perturbation.parse(kind).name == "autoattack"
        for row in rows.values()
    )
