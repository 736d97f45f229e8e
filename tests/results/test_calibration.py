import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss, log_loss

from robust_student.results.calibration import BINS, calibration, histogram

ANSWERS = st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=40)


def slow_error(confidences: list[float], correct: list[bool]) -> float:
    """The definition, bin by bin and example by example."""
    total = 0.0
    for k in range(BINS):
        inside = [
            (c, right)
            for c, right in zip(confidences, correct, strict=True)
            if (k / BINS < c <= (k + 1) / BINS) or (k == 0 and c == 0)
        ]
        if inside:
            accuracy = sum(right for _, right in inside) / len(inside)
            confidence = sum(c for c, _ in inside) / len(inside)
            total += len(inside) / len(confidences) * abs(accuracy - confidence)
    return total


@given(ANSWERS | st.lists(st.tuples(st.integers(0, BINS).map(lambda k: k / BINS), st.booleans()), min_size=1))
def test_the_calibration_error_is_its_definition(answers: list[tuple[float, bool]]) -> None:
    confidences, correct = [c for c, _ in answers], [right for _, right in answers]
    figures = calibration(confidences, correct, confidences, confidences, resamples=3)
    assert figures.expected_calibration_error.value == pytest.approx(slow_error(confidences, correct), abs=1e-12)
    assert figures.negative_log_likelihood.value == pytest.approx(float(np.mean(confidences)))
    bins = histogram(confidences, correct)
    assert sum(b.count for b in bins) == len(answers) and sum(b.right for b in bins) == sum(correct)
    joined = sum(abs(b.right - b.count * b.confidence) for b in bins if b.confidence is not None) / len(answers)
    assert joined == pytest.approx(figures.expected_calibration_error.value, abs=1e-12)


def test_stored_scores_are_those_of_scikit_learn() -> None:
    """What `measurements` stores per example averages to sklearn's log loss and Brier score."""
    import torch

    from robust_student.evaluation.measurements import MeasuredBatch, _scored
    from robust_student.results.perturbation import CLEAN

    logits = 3 * torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(50) % 3
    rows = _scored(MeasuredBatch("m", list(range(50)), logits, labels, None), CLEAN, None, logits)
    probabilities = logits.double().softmax(dim=1).numpy()
    nll, brier = [row.nll for row in rows], [row.brier for row in rows]
    assert np.mean([x for x in nll if x is not None]) == pytest.approx(
        log_loss(labels.numpy(), probabilities), rel=1e-5
    )
    ovr = sum(brier_score_loss((labels == k).numpy(), probabilities[:, k]) for k in range(3))
    assert np.mean([x for x in brier if x is not None]) == pytest.approx(ovr, rel=1e-5)
    assert [row.confidence for row in rows] == pytest.approx(probabilities.max(axis=1), rel=1e-5)
    assert [row.prediction for row in rows] == probabilities.argmax(axis=1).tolist()


def test_scores_that_are_not_finite_are_not_stored_and_extreme_ones_are() -> None:
    import torch

    from robust_student.evaluation.measurements import MeasuredBatch, _scored
    from robust_student.results.perturbation import CLEAN

    logits = torch.tensor([[math.nan, 0.0], [0.0, 5000.0]])
    broken, sure = _scored(MeasuredBatch("m", [0, 1], logits, torch.tensor([0, 0]), None), CLEAN, None, logits)
    assert (broken.confidence, broken.nll, broken.brier) == (None, None, None)
    assert (sure.confidence, sure.nll, sure.brier) == (1.0, 5000.0, 2.0)


def test_intervals_are_those_of_a_bootstrap_over_examples() -> None:
    rng = np.random.default_rng(3)
    confidences = rng.uniform(0.4, 1, 150)
    correct = rng.random(150) < confidences - 0.2
    nll = rng.exponential(size=150)
    figures = calibration(confidences.tolist(), correct.tolist(), nll.tolist(), nll.tolist())
    draws = rng.integers(0, 150, (2000, 150))
    errors = [slow_error(confidences[d].tolist(), correct[d].tolist()) for d in draws[:300]]
    low, high = np.quantile(errors, [0.025, 0.975])
    assert figures.expected_calibration_error[1:] == pytest.approx((low, high), abs=0.02)
    low, high = np.quantile(nll[draws].mean(axis=1), [0.025, 0.975])
    assert figures.negative_log_likelihood[1:] == pytest.approx((low, high), abs=0.03)
    assert figures == calibration(confidences.tolist(), correct.tolist(), nll.tolist(), nll.tolist())


def test_the_interval_contains_the_error_even_where_resampling_adds_to_it() -> None:
    confidences, correct = [(k % 30 + 0.5) / 30 for k in range(300)], [(k * 7) % 30 < k % 30 for k in range(300)]
    value, low, high = calibration(confidences, correct, confidences, confidences).expected_calibration_error
    assert low <= value <= high


def test_nothing_measured_is_nan() -> None:
    assert all(math.isnan(number) for estimate in calibration([], [], [], []) for number in estimate)
