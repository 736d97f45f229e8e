"""The cells of an evaluation under corruptions: one per kind and severity, ours or from a published set."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from robust_student.core.errors import UserError, nearest
from robust_student.core.rng import example_seeds
from robust_student.core.tensors import UNIT_RANGE, answers
from robust_student.corruptions.kinds import CORRUPTIONS, IMAGENET_C, corrupt, require_images
from robust_student.data.readers.load import Data
from robust_student.evaluation.corruption_sets import open_corruption_set, set_digest
from robust_student.evaluation.measurements import Measure, MeasuredBatch, Measurement, rows_of
from robust_student.evaluation.settings import CorruptionSettings, EvaluationSettings
from robust_student.models.model import Model
from robust_student.results.perturbation import Perturbation
from robust_student.results.rows import Row


def corruption_kinds(settings: CorruptionSettings) -> tuple[str, ...]:
    """The kinds asked for, each once; `all` stands for the fifteen of ImageNet-C, as a set without kinds does."""
    words = settings.kinds or (("all",) if settings.set is not None else ())
    named = [kind for word in words for kind in (IMAGENET_C if word == "all" else (word,))]
    return tuple(dict.fromkeys(named))


def corruption_plan(data: Data, settings: EvaluationSettings, count: int) -> list[Measurement]:
    """Every kind at every severity on the first `count` examples of the sample; empty where no kind is asked for.

    Raises UserError, before anything is measured, for unknown kinds, inputs that are not images with a range, and sets
    that do not belong to the test set.
    """
    corruptions, folder = settings.corruptions, settings.corruptions.set
    kinds = corruption_kinds(corruptions)
    if not kinds:
        return []
    source = _generated(kinds, data, settings.seed) if folder is None else _published(folder, kinds, data)
    return [
        Measurement(Perturbation("corruption", kind), [float(severity)], count, _cell(kind, severity, source))
        for kind in kinds
        for severity in dict.fromkeys(corruptions.severities)
    ]


def corruption_marks(settings: CorruptionSettings) -> dict[str, str]:
    """What joins an evaluation's fingerprint: the checksum of a published set's files, which may change; else nothing.

    The set must have been opened before (`corruption_plan`).
    """
    return {} if settings.set is None else {"corruption_set": set_digest(settings.set, corruption_kinds(settings))}


def describe_corruptions(settings: CorruptionSettings, count: int) -> dict[str, Any] | None:
    """What was measured under corruptions, for an evaluation's record; None: nothing."""
    kinds = corruption_kinds(settings)
    source = "generated" if settings.set is None else f"set {settings.set.name}"
    severities = sorted(set(settings.severities))
    return {"source": source, "kinds": list(kinds), "severities": severities, "examples": count} if kinds else None


_CorruptedInputs = Callable[[str, int, MeasuredBatch], Tensor]
"""(kind, severity, batch) -> the corrupted inputs of the batch."""


def _generated(kinds: Sequence[str], data: Data, seed: int) -> _CorruptedInputs:
    """UserError for an unknown kind, and for inputs that are no images with a range."""
    for kind in kinds:
        if kind not in CORRUPTIONS:
            raise UserError(f"corruptions: unknown kind '{kind}'" + nearest(kind, ["all", *CORRUPTIONS]))
    limits = data.input_range
    require_images(data.shape, limits)

    def corrupted(kind: str, severity: int, batch: MeasuredBatch) -> Tensor:
        return corrupt(kind, batch.inputs, severity, example_seeds(seed, batch.indices), limits)

    return corrupted


def _published(folder: Path, kinds: Sequence[str], data: Data) -> _CorruptedInputs:
    """UserError where the set is damaged or not one of this test set."""
    if len(data.shape) != 3 or data.input_range != UNIT_RANGE:
        raise UserError(f"corruption set {folder}: the data are not images with pixels in [0, 1]")
    files = open_corruption_set(folder, kinds, data)

    def corrupted(kind: str, severity: int, batch: MeasuredBatch) -> Tensor:
        return files.inputs(kind, severity, batch.indices).to(batch.inputs)

    return corrupted


def _cell(kind: str, severity: int, source: _CorruptedInputs) -> Measure:
    def run(model: Model, batch: MeasuredBatch) -> list[Row]:
        predictions = answers(model.logits(source(kind, severity, batch))).tolist()
        return rows_of(batch, Perturbation("corruption", kind), float(severity), predictions)

    return run
