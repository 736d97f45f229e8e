"""Where accuracy comes from: class by class and answer by answer, and by the model's own confidence, from the rows."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from robust_student.results.calibration import BINS, histogram
from robust_student.results.class_measures import ClassMeasures, Confusion
from robust_student.results.perturbation import Perturbation
from robust_student.results.rows import Key, Row


def breakdown(groups: Mapping[Key, Mapping[int, Row]], split: str = "test") -> list[dict[str, Any]]:
    """One entry per model, perturbation and setting that has an accuracy (docs/results-format.md).

    Args:
        groups: rows as `results.group` arranges them; estimated radii are skipped.
        split: which examples they are.
    """
    entries = []
    for (model, perturbation, setting), rows in groups.items():
        if Perturbation.parse(perturbation).family != "radius":
            confusion = Confusion.of(rows)
            entries.append(
                {
                    "model": model,
                    "split": split,
                    "perturbation": perturbation,
                    "setting": setting,
                    "classes": [_class(measures) for measures in confusion.measures()],
                    "confusion": confusion.sparse,
                    "confidence": _confidence(rows),
                }
            )
    return entries


def _class(measures: ClassMeasures) -> dict[str, Any]:
    recall, precision = measures.recall, measures.precision if measures.answered else (None, None, None)
    return {
        "label": measures.label,
        **dict(zip(("value", "low", "high"), recall, strict=True)),
        "n": measures.n,
        **dict(zip(("precision", "precision_low", "precision_high"), precision, strict=True)),
        "answered": measures.answered,
        "f1": measures.f1,
    }


def _confidence(rows: Mapping[int, Row]) -> list[dict[str, Any]] | None:
    """Bins of equal width that hold counts; None where no confidence was recorded."""
    confidences = [(row.confidence, bool(row.correct)) for row in rows.values() if row.confidence is not None]
    if not confidences:
        return None
    bins = histogram(*zip(*confidences, strict=True))
    return [{"low": k / BINS, "high": (k + 1) / BINS, **asdict(bin_)} for k, bin_ in enumerate(bins)]
