"""Real test examples as pictures with every model's answer: a few under growing noise, and the worst attacked ones."""

import base64
import io
import math
from collections.abc import Mapping
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from robust_student.attacks.pgd import Pgd
from robust_student.core.rng import example_seeds, normal_per_example
from robust_student.core.tensors import answers
from robust_student.core.threat_model import ThreatModel
from robust_student.corruptions.snr_noise import gaussian_at_snr
from robust_student.data.readers.load import Data
from robust_student.evaluation.settings import EvaluationSettings
from robust_student.models.model import Model
from robust_student.results.perturbation import Perturbation
from robust_student.results.rows import Key, Row

EXAMPLES, SNR_DB = 6, (None, 10.0, 0.0, -5.0)
"""How many examples, at which noise levels (None: clean)."""
_WORST = 3
"""Worst attacked examples shown of each model."""


def gallery(models: Mapping[str, Model], data: Data, sample: Tensor, seed: int) -> list[dict[str, Any]]:
    """Real test examples under growing noise as PNG, with every model's prediction and confidence."""
    chosen = sample[:EXAMPLES]
    examples = data.test.subset(chosen)
    inputs = examples.floats()
    noise = normal_per_example(data.shape, example_seeds(seed, chosen.tolist()))
    entries: list[dict[str, Any]] = [
        {"index": index, "label": label, "levels": []}
        for index, label in zip(chosen.tolist(), examples.labels.tolist(), strict=True)
    ]
    for snr_db in SNR_DB:
        shown = inputs if snr_db is None else gaussian_at_snr(inputs, snr_db, data.input_range, noise)[0]
        predictions = _predictions(models, shown)
        for k, entry in enumerate(entries):
            entry["levels"].append({"snr_db": snr_db, "png": _png(shown[k], data), "predictions": predictions[k]})
    return entries


def worst_examples(
    models: Mapping[str, Model],
    data: Data,
    groups: Mapping[Key, Mapping[int, Row]],
    threat: ThreatModel,
    settings: EvaluationSettings,
) -> list[dict[str, Any]]:
    """The examples that PGD broke although the model was surest of the right answer, with what the attack added.

    Of every model the `_WORST` with the highest clean confidence, at the PGD budget nearest to AutoAttack's in its
    norm. The attack is run again on them with their own starts; a point that does not fool the model this time is left
    out.
    """
    kind, target_budget = str(Perturbation.attack("pgd", threat.norm.name)), threat.budget
    widest = data.input_range.width if threat.norm.p == math.inf else math.inf
    budgets = {s for _, perturbation, s in groups if perturbation == kind and s is not None and s < widest}
    if not budgets:
        return []
    threat = threat.at(min(sorted(budgets), key=lambda budget: abs(budget - target_budget)))
    entries = []
    for name, model in models.items():
        clean, attacked = groups[name, "none", None], groups[name, kind, threat.budget]
        broken = [index for index, row in attacked.items() if clean[index].correct and not row.correct]
        chosen = sorted(broken, key=lambda index: (-(clean[index].confidence or 0.0), index))[:_WORST]
        if not chosen:
            continue
        examples = data.test.subset(torch.tensor(chosen))
        inputs = examples.floats()
        points = _attacked(model, inputs, examples.labels, chosen, threat, settings)
        before, after = _predictions(models, inputs), _predictions(models, points)
        for k, (index, label) in enumerate(zip(chosen, examples.labels.tolist(), strict=True)):
            if after[k][name]["prediction"] == label:
                continue
            change = points[k] - inputs[k]
            factor = 0.5 / max(float(change.abs().max()), 1e-12)
            made = {"model": name, "perturbation": kind, "setting": threat.budget, "magnified": factor}
            pictures = {"original": inputs[k], "perturbed": points[k]}
            shown: dict[str, dict[str, Any]]
            shown = {part: {"png": _png(picture, data)} for part, picture in pictures.items()}
            shown["original"]["predictions"], shown["perturbed"]["predictions"] = before[k], after[k]
            shown["change"] = {"png": _encoded(0.5 + factor * change)}
            entries.append({"index": index, "label": label, "attack": made, **shown})
    return entries


def _attacked(
    model: Model,
    inputs: Tensor,
    labels: Tensor,
    indices: list[int],
    threat: ThreatModel,
    settings: EvaluationSettings,
) -> Tensor:
    """What PGD makes of these examples, forced into the ball and the range, on the CPU."""
    device, seeds = model.mean.device, example_seeds(settings.seed, indices)
    pgd = Pgd(settings.pgd_steps)
    return threat.project(pgd.propose(model, inputs.to(device), labels.to(device), threat, seeds).cpu(), inputs)


def _predictions(models: Mapping[str, Model], inputs: Tensor) -> list[dict[str, dict[str, Any]]]:
    """Every model's answer with its confidence, for each input."""
    logits_by_model = {name: model.logits(inputs) for name, model in models.items()}
    answers_by_model = {
        name: (answers(logits).tolist(), logits.softmax(dim=1).amax(dim=1).tolist())
        for name, logits in logits_by_model.items()
    }
    return [
        {
            name: {"prediction": classes[k], "confidence": round(sure[k], 4) if math.isfinite(sure[k]) else None}
            for name, (classes, sure) in answers_by_model.items()
        }
        for k in range(len(inputs))
    ]


def _png(image: Tensor, data: Data) -> str:
    lower, width = data.input_range.lower, data.input_range.width
    if not data.input_range.bounded:
        lower, width = float(image.min()), float(image.max() - image.min()) or 1.0
    return _encoded((image - lower) / width)


def _encoded(image: Tensor) -> str:
    """An image with values in [0, 1] as PNG in base64."""
    pixels = (image * 255).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
    buffer = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()
