"""Does a model know when it is wrong? Calibration error, log-likelihood and Brier score with bootstrap intervals.

Every figure is computed from what is stored per example, never from a model: the confidence (largest softmax
probability), -log of the true class's probability, and the Brier score.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from robust_student.results.intervals import LEVEL, Estimate

BINS = 15
"""Equal-width bins of confidence, (k / 15, (k + 1) / 15]; a confidence of 0 is in the first."""
_RESAMPLES = 1000
"""Of the bootstrap over examples."""
_Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Bin:
    """The examples whose confidence lies in one bin."""

    count: int
    right: int
    """How many of them are decided rightly."""
    confidence: float | None
    """Their mean confidence; None: no example."""


class Calibration(NamedTuple):
    """Three figures of a model's probabilities, each with its 95 % interval; smaller is better."""

    expected_calibration_error: Estimate
    """sum_b |sum_(i in b) (confidence_i - correct_i)| / n over the bins b (Guo et al. 2017), in [0, 1].

    Biased upwards on few examples: a perfectly calibrated model does not get 0.
    """
    negative_log_likelihood: Estimate
    """Mean of -log p_y, in nats."""
    brier_score: Estimate
    """Mean of sum_k (p_k - [k = y])^2, in [0, 2] (Brier 1950)."""


def _bins_of(confidences: Sequence[float]) -> np.ndarray[Any, np.dtype[np.intp]]:
    """The bin of each confidence."""
    edges = np.arange(1, BINS) / BINS
    return np.digitize(np.asarray(confidences, dtype=float), edges, right=True)


def histogram(confidences: Sequence[float], correct: Sequence[bool]) -> list[Bin]:
    """Counts of examples and of right ones by confidence: what a reliability diagram and a histogram show."""
    places = _bins_of(confidences)
    counts, right, sums = (
        np.bincount(places, weights=weights, minlength=BINS)
        for weights in (None, np.asarray(correct, dtype=float), np.asarray(confidences, dtype=float))
    )
    return [Bin(int(n), int(r), float(s / n) if n else None) for n, r, s in zip(counts, right, sums, strict=True)]


def calibration(
    confidences: Sequence[float],
    correct: Sequence[bool],
    nll: Sequence[float],
    brier: Sequence[float],
    resamples: int = _RESAMPLES,
) -> Calibration:
    """Calibration figures of the same examples with percentile bootstrap intervals over them.

    The interval of the calibration error is widened to contain it, where resampling, which adds to the error's bias,
    would leave it out.

    Args:
        confidences: largest softmax probability.
        correct: whether the decision is right.
        nll: -log of the true class's probability.
        brier: Brier score.
        resamples: how many.
    """
    n = len(confidences)
    if n == 0:
        nothing = Estimate(np.nan, np.nan, np.nan)
        return Calibration(nothing, nothing, nothing)
    columns = np.zeros((n, BINS + 2))
    gaps = np.asarray(confidences, dtype=float) - np.asarray(correct, dtype=float)
    columns[np.arange(n), _bins_of(confidences)] = gaps
    columns[:, BINS], columns[:, BINS + 1] = nll, brier
    rng = np.random.default_rng(0)
    weights = (np.bincount(rng.integers(0, n, n), minlength=n) for _ in range(resamples))
    drawn = np.stack([_figures(w @ columns / n) for w in weights])
    figures = _figures(columns.mean(axis=0))
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    low[0], high[0] = min(low[0], figures[0]), max(high[0], figures[0])
    return Calibration(*(Estimate(*map(float, triple)) for triple in zip(figures, low, high, strict=True)))


def _figures(means: _Array) -> _Array:
    """(calibration error, log-likelihood, Brier score) from the means of the columns."""
    return np.array([np.abs(means[:BINS]).sum(), means[BINS], means[BINS + 1]])
