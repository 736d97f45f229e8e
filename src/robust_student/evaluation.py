"""Honest evidence: several models on the same test examples under noise and attack, kept example by example."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robust_student.costs import costs
from robust_student.data import Data, stratified_sample
from robust_student.gallery import gallery
from robust_student.ledger import Ledger, Sample, describe, fingerprint, prepare
from robust_student.masking_checks import PREFIX, masking_plans, masking_verdict
from robust_student.measurements import autoattack_suite, plan
from robust_student.results import EVALUATION, GALLERY, SUMMARY, find, summarise
from robust_student.runs import Model, read_json, resolve_device, write_json
from robust_student.settings import EvaluationSettings
from robust_student.tensors import UserError


def evaluate(
    models: Mapping[str, Model | nn.Module],
    data: Data,
    settings: EvaluationSettings | None = None,
    *,
    output: Path,
) -> list[dict[str, Any]]:
    """Measure models on the same test examples; write rows, summary and provenance; return the summary records.

    Clean accuracy, Gaussian noise, PGD, AutoAttack with a masking verdict, estimated radii, size and speed. Rows are
    appended batch by batch: run again with the same arguments after an interruption and only the missing batches are
    computed, with the same result. Raises UserError on bad input and where `output` holds something else.

    Args:
        models: name -> model; a plain module must take inputs in natural units and return logits.
        data: from `load_data`; only its test split is used.
        settings: what to measure.
        output: directory for rows.jsonl, summary.json, evaluation.json and gallery.json.
    """
    settings = settings if settings is not None else EvaluationSettings()
    device = resolve_device(settings.device)
    ready = {name: prepare(name, model, data, device) for name, model in models.items()}
    if not ready:
        raise UserError("evaluate: no models given")
    baseline = settings.baseline if settings.baseline is not None else ("kd" if "kd" in ready else None)
    if baseline is not None and baseline not in ready:
        raise UserError(f"evaluate: baseline '{baseline}' is not among the models ({', '.join(ready)})")
    sample, attacked = _samples(data, settings)
    checks = masking_plans(ready, data, settings, attacked)
    ledger = Ledger.open(output, EVALUATION, fingerprint(ready, data, settings))
    examples = data.test.subset(sample)
    inputs, labels = examples.floats().to(device), examples.labels.to(device)
    teacher = ready[settings.teacher].logits(inputs).to(device) if settings.teacher in ready else None
    cells = plan(data, settings, len(sample), attacked, teacher is not None)
    plans = {name: cells + checks[name] for name in ready}
    used = ledger.fill(ready, plans, Sample(sample, inputs, labels, teacher), settings.batch_size)
    mine = {name: {key[1:]: rows for key, rows in used.items() if key[0] == name} for name in ready}
    records = summarise(
        {key: rows for key, rows in used.items() if not key[1].startswith(PREFIX)},
        verdicts={name: masking_verdict(groups, data, settings).as_dict() for name, groups in mine.items()},
        costs={name: costs(model) for name, model in ready.items()},
        baseline=baseline,
        seed=settings.seed,
    )
    if len(data.shape) == 3 and data.shape[0] in (1, 3):
        write_json(output / GALLERY, gallery(ready, data, sample, settings.seed))
    details = read_json(output / EVALUATION) | {
        "baseline": baseline,
        "autoattack_suite": autoattack_suite(data, settings).suite(len(data.classes))
        if settings.autoattack != "none"
        else None,
        "sample": {"test": len(data.test), "examples": len(sample), "attacked": attacked},
        "classes": list(data.classes),
        "models": {name: describe(model) for name, model in ready.items()},
    }
    write_json(output / EVALUATION, details)
    write_json(output / SUMMARY, records)
    return records


def headline(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One line per model for a terminal: clean, noise at the level nearest 0 dB, AutoAttack, verdict, parameters."""
    names = list(dict.fromkeys(record["model"] for record in records))
    lines = []
    for name in names:
        noise = min(find(records, name, "accuracy", "gaussian_snr_db"), key=lambda r: abs(r["setting"]), default=None)
        attacks = [r for r in records if r["model"] == name and r["perturbation"].startswith("autoattack_")]
        accuracy = [r for r in attacks if r["metric"] == "accuracy"]
        parameters = find(records, name, "parameters")
        lines.append(
            {
                "model": name,
                "parameters": parameters[0]["value"] if parameters else None,
                "clean": find(records, name, "accuracy")[0],
                "noise": noise,
                "autoattack": accuracy[0] if accuracy else None,
            }
        )
    return lines


def _samples(data: Data, settings: EvaluationSettings) -> tuple[Tensor, int]:
    """Test positions in the order measured, and how many of them, counted from the front, are attacked.

    The attacked ones are a stratified sample of the sample, moved to the front, and those of the masking checks a
    stratified sample of the attacked ones, moved to the front of these.
    """
    labels, total = data.test.labels, len(data.test)
    wanted = min(settings.examples or total, total)
    attacked = min(settings.attack_examples or wanted, wanted)
    sample = _to_front(stratified_sample(labels, wanted, settings.seed), labels, attacked, settings.seed)
    front = _to_front(sample[:attacked], labels, min(settings.masking.examples, attacked), settings.seed)
    return torch.cat([front, sample[attacked:]]), attacked


def _to_front(positions: Tensor, labels: Tensor, count: int, seed: int) -> Tensor:
    """The positions with a stratified sample of them first, the rest in the order they had."""
    front = stratified_sample(labels[positions], count, seed)
    rest = torch.ones(len(positions), dtype=torch.bool)
    rest[front] = False
    return torch.cat([positions[front], positions[rest]])
