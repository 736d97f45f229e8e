"""Real test examples as pictures with every model's answer: a few under growing noise, and the worst attacked ones."""

import base64
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from robust_student.attacks.pgd import Pgd
from robust_student.core.rng import example_seeds, normal_per_example
from robust_student.core.tensors import InputRange, answers
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


@dataclass(frozen=True, eq=False)
class _Broken:
    """Test examples that an attack broke, before and after it."""

    model: str
    perturbation: str
    """As it stands in the rows."""
    budget: float
    indices: list[int]
    """In the test set."""
    labels: list[int]
    inputs: Tensor
    points: Tensor


def drawable(data: Data) -> bool:
    """Whether the inputs are pictures, grey or in colour."""
    return len(data.shape) == 3 and data.shape[0] in (1, 3)


def gallery(
    models: Mapping[str, Model],
    data: Data,
    sample: Tensor,
    groups: Mapping[Key, Mapping[int, Row]],
    threat: ThreatModel | None,
    settings: EvaluationSettings,
) -> list[dict[str, Any]]:
    """The first examples of the sample under growing noise, then the worst that PGD broke, with every model's answer.

    Args:
        models: name -> model.
        data: whose test examples are shown; its inputs must be `drawable`.
        sample: positions in the test set, in the order measured.
        groups: the rows of the evaluation.
        threat: at which budget of PGD the worst are looked for (`Threats.shown`); None: there are none.
        settings: of the evaluation.
    """
    worst = [] if threat is None else _worst(models, data, groups, threat, settings)
    chosen, limits = sample[:EXAMPLES], data.input_range
    examples = data.test.subset(chosen)
    inputs = examples.floats()
    noise = normal_per_example(data.shape, example_seeds(settings.seed, chosen.tolist()))
    levels = [inputs if snr is None else gaussian_at_snr(inputs, snr, limits, noise)[0] for snr in SNR_DB]
    entries = _noisy_entries(models, chosen.tolist(), examples.labels.tolist(), levels, limits)
    for broken in worst:
        entries += _broken_entries(models, broken, limits)
    return entries


def _worst(
    models: Mapping[str, Model],
    data: Data,
    groups: Mapping[Key, Mapping[int, Row]],
    threat: ThreatModel,
    settings: EvaluationSettings,
) -> list[_Broken]:
    """The examples that PGD broke although the model was surest of the right answer, and what the attack makes of them.

    Of every model the `_WORST` with the highest clean confidence. The attack is run again on them with their own
    starts, and its points are forced into the ball and the range.
    """
    kind, worst = str(Perturbation.attack("pgd", threat.norm.name)), []
    for name, model in models.items():
        clean, attacked = groups[name, "none", None], groups[name, kind, threat.budget]
        broken = [index for index, row in attacked.items() if clean[index].correct and not row.correct]
        chosen = sorted(broken, key=lambda index: (-(clean[index].confidence or 0.0), index))[:_WORST]
        if not chosen:
            continue
        examples, device = data.test.subset(torch.tensor(chosen)), model.mean.device
        inputs, labels, seeds = examples.floats(), examples.labels, example_seeds(settings.seed, chosen)
        points = Pgd(settings.pgd_steps).propose(model, inputs.to(device), labels.to(device), threat, seeds).cpu()
        points = threat.project(points, inputs)
        worst.append(_Broken(name, kind, threat.budget, chosen, labels.tolist(), inputs, points))
    return worst


def _noisy_entries(
    models: Mapping[str, Model], indices: list[int], labels: list[int], levels: list[Tensor], limits: InputRange
) -> list[dict[str, Any]]:
    """An entry for each example, with its picture and the answers at each level of noise."""
    predictions = [_predictions(models, inputs) for inputs in levels]
    return [
        {
            "index": index,
            "label": label,
            "levels": [
                {"snr_db": snr_db, "png": _png(inputs[k], limits), "predictions": answered[k]}
                for snr_db, inputs, answered in zip(SNR_DB, levels, predictions, strict=True)
            ],
        }
        for k, (index, label) in enumerate(zip(indices, labels, strict=True))
    ]


def _broken_entries(models: Mapping[str, Model], broken: _Broken, limits: InputRange) -> list[dict[str, Any]]:
    """An entry for each example whose point fools the model this time too, with what the attack added, magnified."""
    before, after = _predictions(models, broken.inputs), _predictions(models, broken.points)
    entries = []
    for k, (index, label) in enumerate(zip(broken.indices, broken.labels, strict=True)):
        if after[k][broken.model]["prediction"] == label:
            continue
        change = broken.points[k] - broken.inputs[k]
        factor = 0.5 / max(float(change.abs().max()), 1e-12)
        attack = {"model": broken.model, "perturbation": broken.perturbation, "setting": broken.budget}
        original = {"png": _png(broken.inputs[k], limits), "predictions": before[k]}
        perturbed = {"png": _png(broken.points[k], limits), "predictions": after[k]}
        pictures = {"original": original, "perturbed": perturbed, "change": {"png": _encoded(0.5 + factor * change)}}
        entries.append({"index": index, "label": label, "attack": attack | {"magnified": factor}, **pictures})
    return entries


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


def _png(image: Tensor, limits: InputRange) -> str:
    lower, width = limits.lower, limits.width
    if not limits.bounded:
        lower, width = float(image.min()), float(image.max() - image.min()) or 1.0
    return _encoded((image - lower) / width)


def _encoded(image: Tensor) -> str:
    """An image with values in [0, 1] as PNG in base64."""
    pixels = (image * 255).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
    buffer = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()
