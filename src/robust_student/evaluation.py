"""Honest evidence: several models on the same test examples under noise and attack, kept example by example."""

import base64
import hashlib
import io
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from PIL import Image
from rich.console import Console
from rich.progress import Progress
from torch import Tensor, nn

from robust_student.attacks import AutoAttack, pgd
from robust_student.bounds import estimated_confidence_radius, estimated_decision_radius
from robust_student.data import Data, stratified_sample
from robust_student.margins import input_gradient, margin
from robust_student.masking import judge
from robust_student.models import count_macs, count_parameters
from robust_student.norms import Norm, NormName
from robust_student.perturbations import gaussian_at_snr, normal_per_example
from robust_student.results import EVALUATION, GALLERY, ROWS, SUMMARY, Key, Row, find, group, summarise
from robust_student.runs import (
    Model,
    append_jsonl,
    as_model,
    provenance,
    read_json,
    read_jsonl,
    require_fit,
    require_writable,
    resolve_device,
    write_atomically,
    write_json,
)
from robust_student.settings import EvaluationSettings
from robust_student.tensors import UserError

RELATIVE_BUDGETS = (0.25, 0.5, 1.0, 1.5, 2.0)
"""PGD budgets in units of the norm's default radius, where the user gives none."""
GALLERY_EXAMPLES, GALLERY_SNR_DB = 6, (None, 10.0, 0.0, -5.0)
UNBOUNDED_EXAMPLES = 200
"""Examples of the unlimited-budget check of the masking verdict."""


@dataclass(frozen=True)
class Measurement:
    """One cell of the plan: a perturbation at a setting, on the first `count` examples of the sample."""

    perturbation: str
    setting: float | None
    count: int
    run: Callable[[Model, "Batch"], list[Row]]


@dataclass(frozen=True, eq=False)
class Batch:
    """A part of the sample on the device, with what a measurement needs to know about it."""

    model: str
    indices: list[int]
    inputs: Tensor
    labels: Tensor
    teacher_logits: Tensor | None


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
    ready = {name: _prepare(name, model, data, device) for name, model in models.items()}
    if not ready:
        raise UserError("evaluate: no models given")
    baseline = settings.baseline if settings.baseline is not None else ("kd" if "kd" in ready else None)
    if baseline is not None and baseline not in ready:
        raise UserError(f"evaluate: baseline '{baseline}' is not among the models ({', '.join(ready)})")
    sample, attacked = _samples(data, settings)
    _open(output, _fingerprint(ready, data, settings))
    examples = data.test.subset(sample)
    inputs, labels = examples.floats().to(device), examples.labels.to(device)
    groups = group(Row(**row) for row in (read_jsonl(output / ROWS) if (output / ROWS).exists() else []))
    teacher = ready[settings.teacher].logits(inputs).to(device) if settings.teacher in ready else None
    plan = _plan(data, settings, len(sample), attacked, teacher is not None)
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("evaluating", total=len(ready) * sum(m.count for m in plan))
        for name, model in ready.items():
            for cell in plan:
                label = f"{name}: {cell.perturbation} {'' if cell.setting is None else f'{cell.setting:g}'}"
                progress.update(task, description=label)
                done = groups[(name, cell.perturbation, cell.setting)]
                for part in _parts(cell.count, settings.batch_size):
                    indices = sample[part].tolist()
                    if not all(index in done for index in indices):
                        logits = None if teacher is None else teacher[part]
                        rows = cell.run(model, Batch(name, indices, inputs[part], labels[part], logits))
                        append_jsonl(output / ROWS, [asdict(row) for row in rows])
                        done.update({row.index: row for row in rows})
                    progress.advance(task, len(indices))
    used = {
        (name, cell.perturbation, cell.setting): groups[(name, cell.perturbation, cell.setting)]
        for name in ready
        for cell in plan
    }
    verdicts = {
        name: _verdict(model, used, name, inputs[:attacked], labels[:attacked], data) for name, model in ready.items()
    }
    costs = {name: _costs(model) for name, model in ready.items()}
    records = summarise(used, verdicts=verdicts, costs=costs, baseline=baseline, seed=settings.seed)
    if len(data.shape) == 3 and data.shape[0] in (1, 3):
        write_json(output / GALLERY, _gallery(ready, data, sample, settings))
    details = read_json(output / EVALUATION) | {
        "baseline": baseline,
        "autoattack_suite": _suite(data, settings).suite(len(data.classes)) if settings.autoattack != "none" else None,
        "sample": {"test": len(data.test), "examples": len(sample), "attacked": attacked},
        "classes": list(data.classes),
        "models": {name: _describe(model) for name, model in ready.items()},
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


def _prepare(name: str, model: Model | nn.Module, data: Data, device: torch.device) -> Model:
    if isinstance(model, Model):
        require_fit(model, data, f"model '{name}'")
    return as_model(model, data).to(device).eval()


def _samples(data: Data, settings: EvaluationSettings) -> tuple[Tensor, int]:
    """Test positions in the order measured, and how many of them, counted from the front, are attacked.

    The attacked ones are a stratified sample of the sample, moved to the front.
    """
    total = len(data.test)
    wanted = min(settings.examples or total, total)
    sample = stratified_sample(data.test.labels, wanted, settings.seed)
    attacked = min(settings.attack_examples or wanted, wanted)
    front = stratified_sample(data.test.labels[sample], attacked, settings.seed)
    rest = torch.ones(wanted, dtype=torch.bool)
    rest[front] = False
    return torch.cat([sample[front], sample[rest]]), attacked


def _plan(data: Data, settings: EvaluationSettings, total: int, attacked: int, teacher: bool) -> list[Measurement]:
    """Every measurement to make on every model, cheapest first."""
    limits = data.input_range
    plan = [Measurement("none", None, total, _clean)]
    plan += [
        Measurement("gaussian_snr_db", snr_db, total, _noise(data, settings, snr_db)) for snr_db in settings.snr_db
    ]
    budgets: dict[NormName, tuple[float, ...]] = {
        "linf": _budgets(settings.pgd_linf, "linf", data),
        "l2": _budgets(settings.pgd_l2, "l2", data),
    }
    for name in budgets:
        norm = Norm.named(name, data.scale)
        radius_a = _radius_rows(f"estimated_decision_radius_{name}", norm, confidence=False)
        plan.append(Measurement(f"estimated_decision_radius_{name}", None, attacked, radius_a))
        if teacher:
            radius_b = _radius_rows(f"estimated_confidence_radius_{name}", norm, confidence=True)
            plan.append(Measurement(f"estimated_confidence_radius_{name}", None, attacked, radius_b))
    for name, radii in budgets.items():
        norm = Norm.named(name, data.scale)
        plan += [Measurement(f"pgd_{name}", r, attacked, _pgd(data, settings, norm, r)) for r in radii]
    if limits.bounded:
        norm, width = Norm.named("linf"), limits.width
        if width not in budgets["linf"]:
            count = min(attacked, UNBOUNDED_EXAMPLES)
            plan.append(Measurement("pgd_linf", width, count, _pgd(data, settings, norm, width)))
    if settings.autoattack != "none":
        suite = _suite(data, settings)
        plan.append(Measurement(f"autoattack_{suite.norm.name}", suite.radius, attacked, _autoattack(data, suite)))
    return plan


def _budgets(given: tuple[float, ...] | None, name: NormName, data: Data) -> tuple[float, ...]:
    if given is not None:
        return tuple(dict.fromkeys(given))
    radius = Norm.named(name, data.scale).default_radius(data.input_range, data.shape)
    return tuple(float(f"{factor * radius:.4g}") for factor in RELATIVE_BUDGETS)


def _suite(data: Data, settings: EvaluationSettings) -> AutoAttack:
    norm = Norm.named(settings.autoattack_norm, data.scale)
    radius = settings.autoattack_radius or float(f"{norm.default_radius(data.input_range, data.shape):.4g}")
    return AutoAttack(settings.autoattack, norm, radius, settings.seed)


def _clean(model: Model, batch: Batch) -> list[Row]:
    predictions = model.logits(batch.inputs).argmax(dim=1).tolist()
    return _rows(batch, "none", None, predictions)


def _noise(data: Data, settings: EvaluationSettings, snr_db: float) -> Callable[[Model, Batch], list[Row]]:
    def run(model: Model, batch: Batch) -> list[Row]:
        noise = normal_per_example(data.shape, _seeds(settings.seed, batch.indices)).to(batch.inputs)
        noisy, realised = gaussian_at_snr(batch.inputs, snr_db, data.input_range, noise)
        predictions = model.logits(noisy).argmax(dim=1).tolist()
        rows = _rows(batch, "gaussian_snr_db", snr_db, predictions)

        def measured(snr: float) -> dict[str, Any]:
            if math.isnan(snr):
                return {"correct": None}
            return {"value": round(snr, 4)} if math.isfinite(snr) else {"detail": "infinite"}

        return [Row(**asdict(row) | measured(snr)) for row, snr in zip(rows, realised.tolist(), strict=True)]

    return run


def _pgd(data: Data, settings: EvaluationSettings, norm: Norm, radius: float) -> Callable[[Model, Batch], list[Row]]:
    def run(model: Model, batch: Batch) -> list[Row]:
        draws = [
            norm.random(x[None].cpu(), radius, torch.Generator().manual_seed(seed))
            for x, seed in zip(batch.inputs, _seeds(settings.seed, batch.indices), strict=True)
        ]
        start = data.input_range.clip(batch.inputs + torch.cat(draws).to(batch.inputs))
        points = pgd(
            model,
            batch.inputs,
            batch.labels,
            norm=norm,
            radius=radius,
            steps=settings.pgd_steps,
            input_range=data.input_range,
            start=start,
        )
        predictions = _grade(model, batch, points, norm, radius, data)
        return _rows(batch, f"pgd_{norm.name}", radius, predictions.tolist())

    return run


def _autoattack(data: Data, suite: AutoAttack) -> Callable[[Model, Batch], list[Row]]:
    classes = len(data.classes)

    def run(model: Model, batch: Batch) -> list[Row]:
        predictions = model.logits(batch.inputs).argmax(dim=1).to(batch.labels.device)
        standing = predictions == batch.labels
        broken_by = ["none" if alive else "clean" for alive in standing.tolist()]
        for attack in suite.attacks(classes):
            left = standing.nonzero()[:, 0]
            if len(left) == 0:
                break
            part = Batch(
                batch.model, [batch.indices[i] for i in left.tolist()], batch.inputs[left], batch.labels[left], None
            )
            points = suite.run(attack, model, part.inputs, part.labels, classes, data.input_range)
            found = _grade(model, part, points, suite.norm, suite.radius, data).to(batch.labels.device)
            fooled = left[found != part.labels]
            predictions[fooled] = found[found != part.labels]
            standing[fooled] = False
            for position in fooled.tolist():
                broken_by[position] = attack
        rows = _rows(batch, f"autoattack_{suite.norm.name}", suite.radius, predictions.tolist())
        return [Row(**asdict(row) | {"detail": name}) for row, name in zip(rows, broken_by, strict=True)]

    return run


def _radius_rows(measure: str, norm: Norm, *, confidence: bool) -> Callable[[Model, Batch], list[Row]]:
    def run(model: Model, batch: Batch) -> list[Row]:
        inputs = batch.inputs.clone().requires_grad_()
        logits = model(inputs)
        if confidence:
            assert batch.teacher_logits is not None
            radii = estimated_confidence_radius(logits, inputs, batch.labels, batch.teacher_logits, norm)
        else:
            radii = estimated_decision_radius(logits, inputs, batch.labels, norm)
        rows = _rows(batch, measure, None, logits.argmax(dim=1).tolist())
        return [
            Row(**asdict(row) | ({"value": radius} if np.isfinite(radius) else {"detail": "infinite"}))
            for row, radius in zip(rows, radii.tolist(), strict=True)
        ]

    return run


def _grade(model: Model, batch: Batch, points: Tensor, norm: Norm, radius: float, data: Data) -> Tensor:
    """Predictions at the proposed points after forcing them into the ball and the range; wrong stays wrong.

    Attacks never grade themselves. An example that is wrong without any perturbation counts as broken: its clean
    prediction is returned.
    """
    inside = data.input_range.clip(batch.inputs + norm.project(points - batch.inputs, radius))
    clean = model.logits(batch.inputs).argmax(dim=1)
    found = model.logits(inside).argmax(dim=1)
    return torch.where(clean == batch.labels.cpu(), found, clean)


def _rows(batch: Batch, perturbation: str, setting: float | None, predictions: list[int]) -> list[Row]:
    return [
        Row(batch.model, perturbation, setting, index, label, prediction, prediction == label)
        for index, label, prediction in zip(batch.indices, batch.labels.tolist(), predictions, strict=True)
    ]


def _verdict(
    model: Model, groups: Mapping[Key, Mapping[int, Row]], name: str, inputs: Tensor, labels: Tensor, data: Data
) -> dict[str, Any]:
    gradients = []
    for part in _parts(len(labels), 250):
        points = inputs[part].clone().requires_grad_()
        gradients.append(input_gradient(margin(model(points), labels[part]), points).flatten(1))
    sizes = torch.cat([gradient.abs().sum(dim=1) for gradient in gradients])
    mine = {key[1:]: list(rows.values()) for key, rows in groups.items() if key[0] == name}
    attacked = next((rows for (kind, _), rows in mine.items() if kind.startswith("autoattack_")), None)
    unlimited = mine.get(("pgd_linf", data.input_range.width))
    return judge(
        zero_gradients=float((sizes == 0).double().mean()),
        nan_gradients=float((~sizes.isfinite()).double().mean()),
        square_only=None if attacked is None else sum(row.detail == "square" for row in attacked) / len(attacked),
        unbounded_accuracy=None if unlimited is None else sum(bool(row.correct) for row in unlimited) / len(unlimited),
    ).as_dict()


def _costs(model: Model) -> dict[str, float | int]:
    """Parameters, MACs and median latency (ms) of one example, file size in bytes."""
    example = torch.zeros(1, *model.card.input_shape, device=model.mean.device)
    times = []
    with torch.no_grad():
        for _ in range(30):
            started = time.perf_counter()
            model(example).argmax().item()
            times.append(1000 * (time.perf_counter() - started))
    return {
        "parameters": count_parameters(model),
        "macs": count_macs(model, model.card.input_shape),
        "file_size": len(_serialised(model.state_dict())),
        "latency": statistics.median(times),
    }


def _gallery(
    models: Mapping[str, Model], data: Data, sample: Tensor, settings: EvaluationSettings
) -> list[dict[str, Any]]:
    """Real test examples under growing noise as PNG, with every model's prediction and confidence."""
    chosen = sample[:GALLERY_EXAMPLES]
    examples = data.test.subset(chosen)
    inputs = examples.floats()
    noise = normal_per_example(data.shape, _seeds(settings.seed, chosen.tolist()))
    entries: list[dict[str, Any]] = [
        {"index": index, "label": label, "levels": []}
        for index, label in zip(chosen.tolist(), examples.labels.tolist(), strict=True)
    ]
    for snr_db in GALLERY_SNR_DB:
        shown = inputs if snr_db is None else gaussian_at_snr(inputs, snr_db, data.input_range, noise)[0]
        confidences = {name: model.logits(shown).softmax(dim=1).max(dim=1) for name, model in models.items()}
        for k, entry in enumerate(entries):
            predictions = {
                name: {"prediction": int(best.indices[k]), "confidence": round(float(best.values[k]), 4)}
                for name, best in confidences.items()
            }
            entry["levels"].append({"snr_db": snr_db, "png": _png(shown[k], data), "predictions": predictions})
    return entries


def _png(image: Tensor, data: Data) -> str:
    lower, width = data.input_range.lower, data.input_range.width
    if not data.input_range.bounded:
        lower, width = float(image.min()), float(image.max() - image.min()) or 1.0
    pixels = ((image - lower) / width * 255).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
    buffer = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def _describe(model: Model) -> dict[str, Any]:
    described: dict[str, Any] = {"card": model.card.model_dump(mode="json")}
    described |= {"history": model.history, "search": model.search}
    epoch = model.card.provenance.get("epoch")
    return described | ({} if epoch is None else {"best_epoch": epoch})


def _fingerprint(models: Mapping[str, Model], data: Data, settings: EvaluationSettings) -> dict[str, Any]:
    """What must be the same for an interrupted evaluation to be continued."""
    return {
        "models": {name: f"{model.card.network}:{_digest(model.state_dict())}" for name, model in models.items()},
        "data": data.name,
        "test": _digest({"inputs": data.test.inputs, "labels": data.test.labels}),
        "settings": settings.model_dump(mode="json"),
    }


def _digest(tensors: Mapping[str, Tensor]) -> str:
    return hashlib.sha256(_serialised(tensors)).hexdigest()


def _serialised(tensors: Mapping[str, Tensor]) -> bytes:
    return safetensors.torch.save({name: tensor.cpu().contiguous().clone() for name, tensor in tensors.items()})


def _open(output: Path, fingerprint: dict[str, Any]) -> None:
    """Make the output directory, or accept one that holds the unfinished beginning of the same evaluation."""
    path = output / EVALUATION
    if path.exists() and not (output / SUMMARY).exists():
        if read_json(path).get("fingerprint") == fingerprint:
            if (output / ROWS).exists():
                rows = read_jsonl(output / ROWS)  # without a last line that was cut
                write_atomically(output / ROWS, "".join(json.dumps(row) + "\n" for row in rows).encode())
            return
        raise UserError(f"output {output}: holds an unfinished evaluation with other models, data or settings")
    require_writable(output)
    for name in (ROWS, SUMMARY, EVALUATION, GALLERY):
        if (output / name).exists():
            raise UserError(f"output {output}: holds an evaluation already ({name}); choose another name or remove it")
    output.mkdir(exist_ok=True)
    settings = fingerprint["settings"]
    source = provenance(settings, fingerprint["data"], settings["seed"])
    write_json(path, {"fingerprint": fingerprint, "provenance": source})


def _parts(count: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


def _seeds(seed: int, indices: list[int]) -> list[int]:
    """One seed per example, independent of batching and of the model."""
    return [(seed * 1_000_003 + index) % 2**63 for index in indices]
