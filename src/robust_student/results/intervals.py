"""Uncertainty: Wilson intervals of proportions, order-statistic intervals of medians, paired differences."""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

LEVEL = 0.95
"""Confidence level of every interval in this project."""
_RESAMPLES = 20_000
"""Of a bootstrap; its seed is always 0, so that the same rows give the same interval."""
_RESAMPLES_OF_MEDIANS = 5_000


class Estimate(NamedTuple):
    """A value with its interval; infinite or NaN ends mean "none"."""

    value: float
    low: float
    high: float


@lru_cache(maxsize=65_536)
def wilson(successes: int, n: int) -> Estimate:
    """A proportion with its Wilson score interval (Wilson 1927); n = 0 gives NaN."""
    if n == 0:
        return Estimate(math.nan, math.nan, math.nan)
    interval = stats.binomtest(successes, n).proportion_ci(LEVEL, method="wilson")
    return Estimate(successes / n, float(interval.low), float(interval.high))


def mean_over_classes(right: Sequence[int], n: Sequence[int]) -> Estimate:
    """B = mean of the K shares p_k = right_k / n_k, with Wilson's interval at as many examples as B is worth.

    That many examples, B (1 - B) / V, have the variance V = sum_k (p_k (1 - p_k) + B (1 - B) / n_k) / n_k / K^2: the
    effective sample size of Korn & Graubard 1998. The second summand keeps a class that happens to be all right or all
    wrong from counting as certain. Where V is 0 they are K^2 / sum_k 1 / n_k. The number of examples of each class is
    taken as given. No class gives NaN.

    Args:
        right: examples decided rightly, by class.
        n: examples, by class, at least 1 each.
    """
    if not n:
        return Estimate(math.nan, math.nan, math.nan)
    sizes = np.asarray(n, dtype=float)
    shares = np.asarray(right, dtype=float) / sizes
    mean = float(shares.mean())
    even = mean * (1 - mean)
    variance = float(((shares * (1 - shares) + even / sizes) / sizes).sum()) / len(sizes) ** 2
    worth = even / variance if variance > 0 else len(sizes) ** 2 / float((1 / sizes).sum())
    z = float(stats.norm.ppf((1 + LEVEL) / 2))
    middle = (mean + z**2 / (2 * worth)) / (1 + z**2 / worth)
    half = z / (1 + z**2 / worth) * math.sqrt(even / worth + z**2 / (4 * worth**2))
    return Estimate(mean, max(middle - half, 0.0), min(middle + half, 1.0))


def median(values: Sequence[float]) -> Estimate:
    """A median with its distribution-free interval from order statistics (binomial ranks); infinite values allowed."""
    ordered = np.sort(np.asarray(values, dtype=float))
    n = len(ordered)
    if n == 0:
        return Estimate(math.nan, math.nan, math.nan)
    rank = int(stats.binom.ppf((1 - LEVEL) / 2, n, 0.5))
    middle = ordered[n // 2] if n % 2 else _midpoint(ordered[n // 2 - 1], ordered[n // 2])
    return Estimate(float(middle), float(ordered[max(rank - 1, 0)]), float(ordered[min(n - rank, n - 1)]))


def paired_difference(first: Sequence[bool], second: Sequence[bool], resamples: int = _RESAMPLES) -> Estimate:
    """mean(first) - mean(second) on the same examples, with the percentile bootstrap interval over examples.

    Resampling examples is drawing the counts of (+1, 0, -1) differences from a multinomial (Efron & Tibshirani 1993).
    """
    a, b = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    if a.shape != b.shape:
        raise ValueError("paired comparison needs the same examples in both")
    n = len(a)
    if n == 0:
        return Estimate(math.nan, math.nan, math.nan)
    gained, lost = int((a & ~b).sum()), int((~a & b).sum())
    counts = np.random.default_rng(0).multinomial(n, [gained / n, lost / n, (n - gained - lost) / n], size=resamples)
    low, high = np.quantile((counts[:, 0] - counts[:, 1]) / n, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate((gained - lost) / n, float(low), float(high))


def mean_over_examples(values: Sequence[float]) -> Estimate:
    """Mean of one number per example, with the percentile bootstrap interval over examples.

    Where a number is itself the mean over several measurements of its example (corruptions), resampling whole examples
    is the cluster bootstrap: measurements of one example are not independent.
    """
    pairs = np.column_stack([np.asarray(values, dtype=float), np.ones(len(values))])
    return _bootstrap(pairs)


def relative_drop(before: Sequence[float], after: Sequence[float]) -> Estimate:
    """(mean(before) - mean(after)) / mean(before) on the same examples, with the percentile bootstrap over examples.

    NaN where mean(before) is 0; resamples with a mean of 0 count as no drop.
    """
    a, b = np.asarray(before, dtype=float), np.asarray(after, dtype=float)
    if a.shape != b.shape:
        raise ValueError("paired comparison needs the same examples in both")
    return _bootstrap(np.column_stack([a - b, a]))


def _bootstrap(pairs: np.ndarray[Any, np.dtype[Any]]) -> Estimate:
    """sum(first) / sum(second) of pairs `(n, 2)`, and its percentile bootstrap over the n.

    Resampling the n pairs is drawing the counts of the different ones from a multinomial (Efron & Tibshirani 1993).
    """
    if len(pairs) == 0 or pairs[:, 1].sum() == 0:
        return Estimate(math.nan, math.nan, math.nan)
    different, counts = np.unique(pairs, axis=0, return_counts=True)
    drawn = np.random.default_rng(0).multinomial(len(pairs), counts / len(pairs), size=_RESAMPLES)
    over, under = (drawn @ different).T
    ratios = np.divide(over, under, out=np.zeros(_RESAMPLES), where=under != 0)
    low, high = np.quantile(ratios, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(float(pairs[:, 0].sum() / pairs[:, 1].sum()), float(low), float(high))


def ratio_of_medians(first: Sequence[float], second: Sequence[float]) -> Estimate:
    """median(first) / median(second) on the same examples, with the percentile bootstrap interval over examples.

    NaN where the second median is 0 or both are infinite; an end of the interval is infinite where a resample's second
    median is 0.
    """
    a, b = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if a.shape != b.shape:
        raise ValueError("paired comparison needs the same examples in both")
    if len(a) == 0 or np.median(b) == 0:
        return Estimate(math.nan, math.nan, math.nan)
    drawn = np.random.default_rng(0).integers(0, len(a), size=(_RESAMPLES_OF_MEDIANS, len(a)))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.nan_to_num(np.median(a[drawn], axis=1) / np.median(b[drawn], axis=1), nan=1.0, posinf=math.inf)
    low, high = np.quantile(ratios, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], method="inverted_cdf")
    middle, other = float(np.median(a)), float(np.median(b))
    if math.isinf(middle) and math.isinf(other):
        return Estimate(math.nan, math.nan, math.nan)
    return Estimate(middle / other, float(low), float(high))


def mean_of_runs(values: Sequence[float]) -> Estimate:
    """Mean over seeds with Student's t interval; a single run has no interval."""
    n = len(values)
    centre = float(np.mean(values)) if n else math.nan
    if n < 2:
        return Estimate(centre, math.nan, math.nan)
    half = float(stats.t.ppf((1 + LEVEL) / 2, n - 1) * np.std(values, ddof=1) / math.sqrt(n))
    return Estimate(centre, centre - half, centre + half)


def _midpoint(low: float, high: float) -> float:
    return low if low == high else (low + high) / 2
