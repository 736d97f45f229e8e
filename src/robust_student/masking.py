"""The masking verdict: is a robust number due to robustness, or to gradients that an attack cannot use?"""

from dataclasses import asdict, dataclass
from typing import Any, Literal

Level = Literal["PASS", "WARN", "FAIL"]

ZERO_GRADIENT_WARN, ZERO_GRADIENT_FAIL = 0.01, 0.1
"""Share of examples whose input gradient is exactly zero."""
SQUARE_WARN, SQUARE_FAIL = 0.005, 0.05
"""Share of examples that only the gradient-free Square attack breaks."""
UNBOUNDED_WARN, UNBOUNDED_FAIL = 0.02, 0.1
"""Accuracy left when the budget is as wide as the input range."""


@dataclass(frozen=True)
class Verdict:
    """PASS, WARN or FAIL with the figures and the reasons."""

    level: Level
    reasons: list[str]
    """What was found, in words; empty for PASS."""
    zero_gradients: float
    """Share of examples with a zero input gradient of the margin."""
    nan_gradients: float
    """Share of examples with a NaN or infinite gradient."""
    square_only: float | None
    """Share of examples that survived the white-box attacks and fell to Square; None without AutoAttack."""
    unbounded_accuracy: float | None
    """PGD accuracy at a budget as wide as the input range; None for inputs without a range."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def judge(
    *, zero_gradients: float, nan_gradients: float, square_only: float | None, unbounded_accuracy: float | None
) -> Verdict:
    """Judge one model from four figures in [0, 1] (thresholds above; docs/evaluation.md says why)."""
    findings: list[tuple[Level, str]] = []
    if nan_gradients > 0:
        findings.append(("FAIL", f"{nan_gradients:.1%} of the input gradients are NaN or infinite"))
    checks = [
        (zero_gradients, ZERO_GRADIENT_WARN, ZERO_GRADIENT_FAIL, "of the input gradients are exactly zero"),
        (square_only, SQUARE_WARN, SQUARE_FAIL, "of the examples fell to the gradient-free Square attack alone"),
        (unbounded_accuracy, UNBOUNDED_WARN, UNBOUNDED_FAIL, "accuracy is left under PGD with an unlimited budget"),
    ]
    for value, warn, fail, words in checks:
        if value is not None and value > warn:
            findings.append(("FAIL" if value > fail else "WARN", f"{value:.1%} {words}"))
    levels = [level for level, _ in findings]
    level: Level = "FAIL" if "FAIL" in levels else "WARN" if "WARN" in levels else "PASS"
    return Verdict(
        level, [reason for _, reason in findings], zero_gradients, nan_gradients, square_only, unbounded_accuracy
    )
