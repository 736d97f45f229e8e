"""A few real test examples under growing noise, as pictures with every model's answer."""

import base64
import io
from collections.abc import Mapping
from typing import Any

from PIL import Image
from torch import Tensor

from robust_student.data import Data
from robust_student.measurements import example_seeds
from robust_student.perturbations import gaussian_at_snr, normal_per_example
from robust_student.runs import Model

EXAMPLES, SNR_DB = 6, (None, 10.0, 0.0, -5.0)
"""How many examples, at which noise levels (None: clean)."""


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
