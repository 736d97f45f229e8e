"""The masking verdict: is a robust number due to robustness, gradients that no attack can use, or one answer?"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Level = Literal["PASS", "WARN", "FAIL"]
CheckName = Literal[
    "zero_gradients",
    "nan_gradients",
    "random_outputs",
    "batch_outputs",
    "probability_outputs",
    "unbounded_accuracy",
    "budget_rise",
    "step_rise",
    "one_step_lead",
    "square_only",
    "transfer_only",
    "autoattack_only",
    "margin_only",
    "rescaled_only",
    "one_answer",
    "chance_level",
]
"""The figures that are judged, each a share in [0, 1] of the examples it was measured on."""


@dataclass(frozen=True)
class Check:
    """Above which share a figure is doubtful, and above which it proves that attacks are misled."""

    warn: float
    fail: float | None
    """None: WARN at most."""
    words: str
    """What the share is a share of; they follow a percentage."""

    def level(self, share: float) -> Level:
        """PASS up to `warn`, FAIL above `fail`."""
        if self.fail is not None and share > self.fail:
            return "FAIL"
        return "WARN" if share > self.warn else "PASS"


CHECKS: dict[CheckName, Check] = {
    "zero_gradients": Check(0.01, 0.1, "of the input gradients are exactly zero"),
    "nan_gradients": Check(0.0, 0.0, "of the input gradients are NaN or infinite"),
    "random_outputs": Check(0.0, 0.01, "of the inputs get other logits when they are given again"),
    "batch_outputs": Check(0.01, 0.1, "of the inputs get other logits alone than within their batch"),
    "probability_outputs": Check(0.5, None, "of the outputs are probabilities where logits are expected"),
    "unbounded_accuracy": Check(0.02, 0.1, "accuracy is left under PGD with an unlimited budget"),
    "budget_rise": Check(0.02, 0.1, "of accuracy comes back when the budget of PGD grows"),
    "step_rise": Check(0.02, 0.1, "of accuracy comes back when PGD takes more steps"),
    "one_step_lead": Check(0.02, 0.1, "of accuracy falls to a single gradient step but not to many"),
    "square_only": Check(0.005, 0.05, "of the examples fell to the gradient-free Square attack alone"),
    "transfer_only": Check(0.01, 0.05, "of the examples fell only to attacks made on another model"),
    "autoattack_only": Check(0.05, 0.2, "of the examples survived PGD and fell to AutoAttack at the same budget"),
    "margin_only": Check(0.05, None, "of the examples fell to PGD on the margin and survived it on cross-entropy"),
    "rescaled_only": Check(0.05, 0.2, "of the examples survived PGD on cross-entropy until the logits were rescaled"),
    "one_answer": Check(0.8, 0.95, "of the examples of other classes get the answer that the model gives most"),
    "chance_level": Check(0.95, 0.999, "of the way from perfect to chance may be lost, in balanced accuracy"),
}
"""Thresholds and words by figure; docs/masking.md says why."""


@dataclass(frozen=True)
class Verdict:
    """PASS, WARN or FAIL with the figures and the reasons."""

    level: Level
    reasons: list[str]
    """What was found, in words; empty for PASS."""
    fired: dict[str, Level]
    """The checks behind the reasons, in the same order, each with the level it reached."""
    not_run: dict[str, str]
    """The checks without a figure, each with what it lacked."""
    figures: dict[CheckName, float | None]
    """Every check's share; None where it did not run."""
    examples: dict[str, int]
    """How many examples each share is one of."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON, the figures beside the rest."""
        words = {"level": self.level, "reasons": self.reasons, "fired": self.fired, "not_run": self.not_run}
        return words | {"examples": self.examples} | dict(self.figures)


def judge(
    figures: Mapping[CheckName, float],
    not_run: Mapping[CheckName, str] | None = None,
    examples: Mapping[CheckName, int] | None = None,
) -> Verdict:
    """Judge one model; a check that did not run does not count against it, but is named.

    Args:
        figures: shares in [0, 1] of the checks that ran.
        not_run: why the others did not.
        examples: how many examples each of the shares is one of.
    """
    levels = {name: check.level(figures[name]) for name, check in CHECKS.items() if name in figures}
    fired = {name: level for name, level in levels.items() if level != "PASS"}
    worst: Level = "FAIL" if "FAIL" in fired.values() else "WARN" if fired else "PASS"
    lacking = {name: (not_run or {}).get(name, "not measured") for name in CHECKS if name not in figures}
    return Verdict(
        worst,
        [f"{figures[name]:.1%} {CHECKS[name].words}" for name in fired],
        {str(name): level for name, level in fired.items()},
        {str(name): why for name, why in lacking.items()},
        {name: figures.get(name) for name in CHECKS},
        {str(name): count for name, count in (examples or {}).items()},
    )
