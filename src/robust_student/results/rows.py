"""Rows: one example's outcome under one perturbation."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

ROWS, SUMMARY, EVALUATION, GALLERY = "rows.jsonl", "summary.json", "evaluation.json", "gallery.json"
"""File names in an evaluation's directory."""
BREAKDOWN = "breakdown.json"
"""Accuracy by class and counts by confidence, in an evaluation's directory."""
CERTIFICATION = "certification.json"
"""What tells a directory of certificates from one of an evaluation."""
SAVED = frozenset({ROWS, SUMMARY, EVALUATION, GALLERY, BREAKDOWN, CERTIFICATION})
"""What a report is made from."""

Key = tuple[str, str, float | None]
"""(model, perturbation, setting); `Perturbation.parse` says what the second means."""


@dataclass(frozen=True)
class Row:
    """One example of one model under one perturbation at one setting."""

    model: str
    perturbation: str
    """`none`, `gaussian_snr_db`, `corruption_snow`, `pgd_linf`, ... or `estimated_decision_radius_linf`, ..."""
    setting: float | None
    """SNR in dB, severity, or budget in input units; None where there is nothing to set."""
    index: int
    """Position of the example in the test set."""
    label: int
    prediction: int
    """Predicted class of the perturbed input (of the clean one for estimated radii)."""
    correct: bool | None
    """Right on the clean and on the perturbed input; None: excluded (noise on an all-zero input has no SNR)."""
    value: float | None = None
    """Realised SNR in dB, or the estimated radius in units of the norm (0 where it is NaN); None: none, or infinite."""
    detail: str | None = None
    """The attack that broke the example first, or `infinite` or `nan` for a radius."""
    confidence: float | None = None
    """Largest softmax probability; None: not recorded (attacks, radii, files of older versions) or not finite."""
    nll: float | None = None
    """-log of the true class's probability, in nats."""
    brier: float | None = None
    """Sum over the classes of (p_k - [k is the label])^2."""

    @property
    def key(self) -> Key:
        """(model, perturbation, setting)."""
        return self.model, self.perturbation, self.setting

    @property
    def radius(self) -> float:
        """The radius in the row; infinite where it says so."""
        return math.inf if self.detail == "infinite" else float(self.value or 0.0)


def group(rows: Iterable[Row]) -> dict[Key, dict[int, Row]]:
    """Rows by model, perturbation and setting, then by example; a later row replaces an earlier one."""
    groups: dict[Key, dict[int, Row]] = defaultdict(dict)
    for row in rows:
        groups[row.key][row.index] = row
    return groups


def shared_outcomes(first: Mapping[int, Row], second: Mapping[int, Row]) -> tuple[list[bool], list[bool]]:
    """Whether two models are right on each of the examples that both have and neither excludes."""
    first_outcomes, second_outcomes = outcomes(first), outcomes(second)
    shared = [index for index in first_outcomes if index in second_outcomes]
    return [first_outcomes[index] for index in shared], [second_outcomes[index] for index in shared]


def outcomes(rows: Mapping[int, Row]) -> dict[int, bool]:
    """Whether each example is right, by its position; without the excluded ones."""
    return {index: bool(row.correct) for index, row in rows.items() if row.correct is not None}


def class_name(names: Sequence[str]) -> Callable[[int], str]:
    """From a class's number to its name; -1 is what a model answers whose logits are NaN."""

    def name(label: int) -> str:
        return names[label] if 0 <= label < len(names) else "no answer (NaN)" if label == -1 else str(label)

    return name
