"""Is one model better than another? Exact tests, on the same examples or on different ones, and what they say in words.

Every comparison has a difference of accuracies with its interval and a p-value. Where many are made, Holm's correction
bounds the probability that any "larger than its uncertainty" among them is an accident.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy import stats

from robust_student.results.intervals import Estimate, paired_difference, wilson

_SIGNIFICANCE = 0.05
"""Largest (adjusted) p-value at which a difference is called larger than its uncertainty."""


@dataclass(frozen=True)
class Difference:
    """Accuracy of a first model minus that of a second one."""

    estimate: Estimate
    """With its 95 % interval, in [-1, 1]."""
    n: tuple[int, ...]
    """Examples of the two: one number where they are the same examples."""
    p: float | None
    """Two-sided p-value of no difference; None: not tested."""
    test: Literal["McNemar", "Fisher"]
    adjusted_p: float | None = None
    """After Holm's correction; None: this is the only comparison."""
    family: int = 1
    """How many comparisons were made together."""

    @property
    def paired(self) -> bool:
        """Whether both were measured on the same examples."""
        return len(self.n) == 1

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies on one side of 0."""
        return self.estimate.low > 0 or self.estimate.high < 0

    @property
    def distinguishable(self) -> bool:
        """Whether the difference is larger than its uncertainty: by its interval and, where tested, by the test."""
        p = self.p if self.adjusted_p is None else self.adjusted_p
        return self.excludes_zero and (p is None or p <= _SIGNIFICANCE)


def mcnemar(gained: int, lost: int) -> float:
    """Exact two-sided p-value of McNemar's test: min(1, 2 P(B <= min(b, c))), B ~ Binomial(b + c, 1/2) (McNemar 1947).

    Args:
        gained: b, examples that only the first model gets right.
        lost: c, examples that only the second one gets right.
    """
    return min(1.0, 2 * float(stats.binom.cdf(min(gained, lost), gained + lost, 0.5)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values: max over j <= i of (m - j + 1) p_(j), p sorted, at most 1 (Holm 1979)."""
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted.tolist()


def paired(first: Sequence[bool], second: Sequence[bool]) -> Difference:
    """Compare two models on the same examples: bootstrap interval of the difference and McNemar's exact test."""
    estimate = paired_difference(first, second)
    pairs = list(zip(first, second, strict=True))
    gained, lost = sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs)
    return Difference(estimate, (len(pairs),), mcnemar(gained, lost), "McNemar")


def unpaired(first: Sequence[bool], second: Sequence[bool]) -> Difference:
    """Compare two models on different examples: Newcombe's interval and Fisher's exact test.

    The interval joins the two Wilson intervals (l, u) of p and q: d - sqrt((p - l_p)^2 + (u_q - q)^2) and
    d + sqrt((u_p - p)^2 + (q - l_q)^2), d = p - q (Newcombe 1998, method 10). Either side empty gives NaN.
    """
    counts = (sum(first), sum(second))
    n = (len(first), len(second))
    p, q = wilson(counts[0], n[0]), wilson(counts[1], n[1])
    d = p.value - q.value
    low = d - math.hypot(p.value - p.low, q.high - q.value)
    high = d + math.hypot(p.high - p.value, q.value - q.low)
    table = [[counts[0], n[0] - counts[0]], [counts[1], n[1] - counts[1]]]
    return Difference(Estimate(d, low, high), n, float(stats.fisher_exact(table).pvalue), "Fisher")


def adjust(differences: Sequence[Difference]) -> list[Difference]:
    """The same differences, corrected for having been made together."""
    adjusted = holm([1.0 if d.p is None else d.p for d in differences])
    family = len(differences)
    return [replace(d, adjusted_p=p, family=family) for d, p in zip(differences, adjusted, strict=True)]


def in_words(difference: Difference, first: str, second: str, place: str) -> str:
    """One sentence that says whether the difference is larger than its uncertainty.

    Args:
        difference: of the two.
        first: name of the model the sentence is about.
        second: name of the model it is compared with.
        place: where, as it follows a verb: "under AutoAttack", "on clean inputs".
    """
    d, low, high = difference.estimate
    if math.isnan(d):
        return f"{first} and {second} were not compared {place}"
    if math.isnan(low):
        return f"{first} and {second} differ by {_points(d, '+')} points {place}, without an interval"
    whole, many = f"[{_points(low)}, {_points(high)}]", difference.family > 1
    n = "n = " + " and ".join(f"{count:,}" for count in difference.n) + ("" if difference.paired else ", unpaired")
    facts = [] if difference.p is None else [f"{difference.test} {p_text(difference.p)}"]
    if many and difference.adjusted_p is not None:
        facts.append(f"Holm over {difference.family} comparisons {p_text(difference.adjusted_p)}")
    evidence = ", ".join([*facts, n])
    if difference.distinguishable:
        side = "above" if low > 0 else "below"
        size = f"{abs(100 * d):.1f} points [{_points(min(abs(low), abs(high)))}, {_points(max(abs(low), abs(high)))}]"
        return f"{first} is {size} {side} {second} {place}; larger than its uncertainty ({evidence})"
    plain = replace(difference, adjusted_p=None).distinguishable
    but = "; alone it would be, but not among so many comparisons" if many and plain else ""
    return f"{first} and {second} are not distinguishable {place}: {_points(d, '+')} points {whole} ({evidence}){but}"


def p_text(p: float) -> str:
    """A p-value for people: "p < 0.001", "p = 0.032"."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"


def _points(share: float, sign: str = "") -> str:
    text = f"{100 * share:{sign}.1f}"
    return text.lstrip("+-") if float(text) == 0 else text.replace("-", "\u2212")
