"""What an evaluation measures without an attack: one cell per perturbation and setting."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from robust_student.attacks.attack import Attack
from robust_student.bounds.estimated import estimated_confidence_radius, estimated_decision_radius
from robust_student.core.norms import Norm
from robust_student.core.rng import example_seeds, normal_per_example, uniform_per_example
from robust_student.core.tensors import InputRange, answers
from robust_student.corruptions.snr_noise import NoiseName, gaussian_at_snr, impulse_at_snr, uniform_at_snr
from robust_student.evaluation.settings import EvaluationSettings
from robust_student.models.model import Model
from robust_student.results.perturbation import CLEAN, Meaning, Perturbation
from robust_student.results.rows import Key, Row


@dataclass(frozen=True, eq=False)
class Measurement:
    """A part of the plan: a perturbation at one setting, or at several, on the first `count` examples of the sample."""

    perturbation: Perturbation
    settings: Sequence[float | None]
    """Each example gets a row for each of them."""
    count: int
    run: "Measure"
    passes: int = 1
    """About how many forward passes of an example it takes; the time that is left is estimated from it."""

    @property
    def title(self) -> str:
        """What is being measured, for people who wait."""
        values = ", ".join(f"{setting:g}" for setting in self.settings if setting is not None)
        return f"{self.perturbation} {values}".rstrip()

    def keys(self, model: str) -> list[Key]:
        """Of its rows."""
        return [(model, str(self.perturbation), setting) for setting in self.settings]


@dataclass(frozen=True, eq=False)
class MeasuredBatch:
    """A part of the sample on the device, with what a measurement needs to know about it."""

    model: str
    indices: list[int]
    inputs: Tensor
    labels: Tensor
    teacher_logits: Tensor | None

    def at(self, positions: Tensor) -> "MeasuredBatch":
        """The examples at these positions."""
        indices = [self.indices[i] for i in positions.tolist()]
        scores = None if self.teacher_logits is None else self.teacher_logits[positions]
        return MeasuredBatch(self.model, indices, self.inputs[positions], self.labels[positions], scores)


@dataclass(frozen=True, eq=False)
class Sample:
    """The test examples to measure, on the device, in the order measured."""

    positions: Tensor
    """In the test set."""
    inputs: Tensor
    labels: Tensor
    teacher_logits: Tensor | None

    def batches(self, model: str, count: int, size: int) -> Iterator[MeasuredBatch]:
        """The first `count` of them in batches of at most `size`, as a model of that name is measured on them."""
        for start in range(0, count, size):
            part = slice(start, min(start + size, count))
            scores = None if self.teacher_logits is None else self.teacher_logits[part]
            yield MeasuredBatch(model, self.positions[part].tolist(), self.inputs[part], self.labels[part], scores)


def passes_of(*attacks: Attack) -> int:
    """Passes of an example under attacks at one budget, where a third of the examples stand and the rest leave soon."""
    return max(1, sum(attack.passes for attack in attacks) // 3)


Measure = Callable[[Model, MeasuredBatch], list[Row]]
"""Measures a model on a batch."""


def plan(
    settings: EvaluationSettings, limits: InputRange, norms: Sequence[Norm], total: int, attacked: int, *, teacher: bool
) -> list[Measurement]:
    """What is measured on every model without an attack: clean, under noise, and estimated radii in each norm."""
    cells = [Measurement(CLEAN, [None], total, _clean)]
    cells += [
        Measurement(Perturbation("noise", name), [snr_db], total, _noise(name, limits, settings.seed, snr_db))
        for name in dict.fromkeys(settings.noises)
        for snr_db in settings.snr_db
    ]
    meanings: tuple[Meaning, ...] = ("decision", "confidence") if teacher else ("decision",)
    return cells + [_estimated_radii(norm, meaning, attacked) for norm in norms for meaning in meanings]


def _clean(model: Model, batch: MeasuredBatch) -> list[Row]:
    return _scored(batch, CLEAN, None, model.logits(batch.inputs))


_PASSES_OF_RADII = 20  # a gradient for each rival
_NOISES = {
    "gaussian": (gaussian_at_snr, normal_per_example),
    "uniform": (uniform_at_snr, uniform_per_example),
    "impulse": (impulse_at_snr, uniform_per_example),
}
"""Kind of noise -> how it is added, and the draws it is made from."""


def _noise(name: NoiseName, limits: InputRange, seed: int, snr_db: float) -> Measure:
    add, draw = _NOISES[name]

    def run(model: Model, batch: MeasuredBatch) -> list[Row]:
        draws = draw(batch.inputs.shape[1:], example_seeds(seed, batch.indices)).to(batch.inputs)
        noisy, realised = add(batch.inputs, snr_db, limits, draws)
        rows = _scored(batch, Perturbation("noise", name), snr_db, model.logits(noisy))

        def measured(snr: float) -> dict[str, Any]:
            if math.isnan(snr):
                return {"correct": None, "confidence": None, "nll": None, "brier": None}
            return {"value": round(snr, 4)} if math.isfinite(snr) else {"detail": "infinite"}

        return [replace(row, **measured(snr)) for row, snr in zip(rows, realised.tolist(), strict=True)]

    return run


def _estimated_radii(norm: Norm, meaning: Meaning, count: int) -> Measurement:
    kind = Perturbation.radius("estimated", meaning, norm.name)

    def run(model: Model, batch: MeasuredBatch) -> list[Row]:
        inputs = batch.inputs.clone().requires_grad_()
        logits = model(inputs)
        if meaning == "confidence":
            assert batch.teacher_logits is not None
            radii = estimated_confidence_radius(logits, inputs, batch.labels, batch.teacher_logits, norm)
        else:
            radii = estimated_decision_radius(logits, inputs, batch.labels, norm)
        rows = rows_of(batch, kind, None, answers(logits).tolist())
        return [replace(row, **radius_fields(radius)) for row, radius in zip(rows, radii.tolist(), strict=True)]

    return Measurement(kind, [None], count, run, passes=_PASSES_OF_RADII)


def radius_fields(radius: float, detail: str | None = None) -> dict[str, Any]:
    """`value` and `detail` of the row of a radius; where it is NaN nothing is bounded, which is a radius of 0."""
    if math.isnan(radius):
        return {"value": 0.0, "detail": "nan"}
    return {"value": radius, "detail": detail} if math.isfinite(radius) else {"detail": "infinite"}


def rows_of(
    batch: MeasuredBatch, perturbation: Perturbation, setting: float | None, predictions: list[int]
) -> list[Row]:
    """One row per example of the batch, right where the prediction is the label."""
    kind = str(perturbation)
    return [
        Row(batch.model, kind, setting, index, label, prediction, prediction == label)
        for index, label, prediction in zip(batch.indices, batch.labels.tolist(), predictions, strict=True)
    ]


def _scored(batch: MeasuredBatch, perturbation: Perturbation, setting: float | None, logits: Tensor) -> list[Row]:
    """Rows with what calibration needs: confidence, -log p_y and sum_k (p_k - [k = y])^2; None where not finite."""
    labels, log_p = batch.labels.cpu(), logits.double().log_softmax(dim=1)
    truth = torch.nn.functional.one_hot(labels, logits.shape[1])
    nll = -log_p.gather(1, labels[:, None])[:, 0]
    brier = (log_p.exp() - truth).square().sum(dim=1)
    rows = rows_of(batch, perturbation, setting, answers(logits).tolist())
    scores = zip(log_p.exp().amax(dim=1).tolist(), nll.tolist(), brier.tolist(), strict=True)
    return [
        replace(row, confidence=_rounded(confidence), nll=_rounded(loss), brier=_rounded(distance))
        for row, (confidence, loss, distance) in zip(rows, scores, strict=True)
    ]


def _rounded(value: float) -> float | None:
    """Six digits: the rest depends on the batching."""
    return float(f"{value:.6g}") if math.isfinite(value) else None
