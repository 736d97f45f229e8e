"""Where accuracy comes from: by true class, and by the model's own confidence, as counts from the saved rows."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from robust_student.results.calibration import BINS, histogram
from robust_student.results.perturbation import Perturbation
from robust_student.results.rows import Key, Row, class_accuracies


def breakdown(groups: Mapping[Key, Mapping[int, Row]], split: str = "test") -> list[dict[str, Any]]:
    """One entry per model, perturbation and setting that has an accuracy (docs/results-format.md).

    Args:
        groups: rows as `results.group` arranges them; estimated radii are skipped.
        split: which examples they are.
    """
    return [
        {
            "model": model,
            "split": split,
            "perturbation": perturbation,
            "setting": setting,
            "classes": _classes(rows),
            "confidence": _confidence(rows),
        }
        for (model, perturbation, setting), rows in groups.items()
        if Perturbation.parse(perturbation).family != "radius"
    ]


def _classes(rows: Mapping[int, Row]) -> list[dict[str, Any]]:
    return [
        {"label": label, "value": estimate.value, "low": estimate.low, "high": estimate.high, "n": n}
        for label, (estimate, n) in class_accuracies(rows).items()
    ]


def _confidence(rows: Mapping[int, Row]) -> list[dict[str, Any]] | None:
    """Bins of equal width that hold counts; None where no confidence was recorded."""
    confidences = [(row.confidence, bool(row.correct)) for row in rows.values() if row.confidence is not None]
    if not confidences:
        return None
    bins = histogram(*zip(*confidences, strict=True))
    return [{"low": k / BINS, "high": (k + 1) / BINS, **asdict(bin_)} for k, bin_ in enumerate(bins)]
