import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, stats

from robust_student.results.intervals import (
    Estimate,
    mean_of_runs,
    mean_over_classes,
    mean_over_examples,
    median,
    paired_difference,
    relative_drop,
    wilson,
)

NORMAL_QUANTILE = 1.959963984540054
COUNTS = st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@given(COUNTS)
def test_wilson_is_the_published_formula(counts: tuple[int, int]) -> None:
    successes, n = counts
    p, z2 = successes / n, NORMAL_QUANTILE**2
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = NORMAL_QUANTILE / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n**2))
    assert wilson(successes, n) == pytest.approx((p, centre - half, centre + half), abs=1e-12)


@pytest.mark.parametrize(("successes", "n"), [(3, 10), (90, 100), (1, 50)])
def test_the_ends_of_wilson_are_the_proportions_that_a_score_test_just_accepts(successes: int, n: int) -> None:
    def excess(p: float) -> float:
        return (successes / n - p) ** 2 - NORMAL_QUANTILE**2 * p * (1 - p) / n

    value, low, high = wilson(successes, n)
    assert low == pytest.approx(optimize.brentq(excess, 0, value))
    assert high == pytest.approx(optimize.brentq(excess, value, 1))


@pytest.mark.parametrize(
    "estimate",
    [
        *(wilson(0, 0), median([]), paired_difference([], []), mean_of_runs([]), mean_over_classes([], [])),
        *(mean_over_examples([]), relative_drop([], []), relative_drop([0.0, 0.0], [1.0, 0.0])),
    ],
)
def test_nothing_measured_is_nan(estimate: Estimate) -> None:
    assert all(math.isnan(number) for number in estimate)


def test_all_right_or_all_wrong_still_has_an_interval() -> None:
    assert wilson(5, 5).low < 0.6 and wilson(5, 5).high == 1
    assert wilson(0, 5).low == 0 and wilson(0, 5).high > 0.4


@pytest.mark.parametrize(
    ("values", "expected"),
    [([3.0], 3.0), ([1.0, 2.0], 1.5), ([5.0, 1.0, 2.0], 2.0), ([0.0, math.inf, math.inf], math.inf)]
    + [([1.0, math.inf], math.inf), ([math.inf] * 4, math.inf), ([1.0, 2.0, math.inf, math.inf], math.inf)],
)
def test_median_of_a_few_values(values: list[float], expected: float) -> None:
    assert median(values).value == expected


@given(st.lists(st.floats(0, 10) | st.just(math.inf), min_size=1, max_size=40))
def test_the_median_lies_inside_its_interval_of_observed_values(values: list[float]) -> None:
    estimate = median(values)
    assert estimate.low <= estimate.value <= estimate.high
    assert {estimate.low, estimate.high} <= set(values)


@pytest.mark.parametrize("n", [6, 7, 20, 101])
def test_the_interval_of_a_median_has_the_widest_trim_that_keeps_95_percent(n: int) -> None:
    estimate = median([float(k) for k in range(1, n + 1)])

    def coverage(trim: int) -> float:
        """Chance that the true median lies between the order statistics trim + 1 and n - trim."""
        return sum(math.comb(n, k) for k in range(trim + 1, n - trim)) / 2**n

    trim = max(t for t in range(n // 2) if coverage(t) >= 0.95)
    assert (estimate.low, estimate.high) == (trim + 1, n - trim)


def coverage(interval: Callable[[np.random.Generator], Estimate], truth: float, repeats: int = 400) -> float:
    rng = np.random.default_rng(0)
    estimates = [interval(rng) for _ in range(repeats)]
    return sum(e.low <= truth <= e.high for e in estimates) / repeats


@pytest.mark.parametrize("p", [0.5, 0.9, 0.99])
def test_wilson_covers_the_true_proportion(p: float) -> None:
    assert 0.92 <= coverage(lambda rng: wilson(int(rng.binomial(200, p)), 200), p) <= 0.995


def test_the_interval_of_a_median_covers_the_true_one() -> None:
    assert coverage(lambda rng: median(list(rng.exponential(size=51))), math.log(2)) >= 0.93


def test_the_paired_interval_covers_the_true_difference() -> None:
    def drawn(rng: np.random.Generator) -> Estimate:
        common = rng.random(200)
        second = (common < 0.7) & (rng.random(200) < 0.95)
        return paired_difference((common < 0.8).tolist(), second.tolist(), resamples=2000)

    assert 0.91 <= coverage(drawn, 0.8 - 0.7 * 0.95, repeats=200) <= 0.99


def test_the_t_interval_covers_the_true_mean() -> None:
    assert 0.92 <= coverage(lambda rng: mean_of_runs(list(rng.normal(3.0, 2.0, 4))), 3.0) <= 0.98


def test_a_paired_difference_is_that_of_a_bootstrap_over_examples() -> None:
    rng = np.random.default_rng(1)
    first, second = rng.random(60) < 0.8, rng.random(60) < 0.6
    draws = rng.integers(0, 60, (20_000, 60))
    differences = first[draws].mean(axis=1) - second[draws].mean(axis=1)
    low, high = np.quantile(differences, [0.025, 0.975])
    estimate = paired_difference(first.tolist(), second.tolist())
    assert estimate.value == pytest.approx(first.mean() - second.mean())
    assert (estimate.low, estimate.high) == pytest.approx((low, high), abs=1.01 / 60)
    assert estimate.high - estimate.low == pytest.approx(high - low, rel=0.1)


def test_a_paired_difference_depends_on_its_seed_alone() -> None:
    first, second = [True] * 30 + [False] * 30, [True, False] * 30
    assert paired_difference(first, second) == paired_difference(first, second)


def test_exchanging_the_models_turns_the_sign() -> None:
    first, second = [True] * 40 + [False] * 20, [True, False] * 30
    there, back = paired_difference(first, second), paired_difference(second, first)
    assert there.value == -back.value and there.low == pytest.approx(-back.high, abs=1 / 60)


def test_equal_answers_differ_by_nothing() -> None:
    assert paired_difference([True, False, True], [True, False, True]) == (0, 0, 0)


def test_a_paired_difference_needs_the_same_examples() -> None:
    with pytest.raises(ValueError, match="same examples"):
        paired_difference([True], [True, False])


@pytest.mark.parametrize("values", [[1.0, 2.0], [0.5, 0.5, 0.5], [0.91, 0.93, 0.97, 0.9]])
def test_the_interval_of_a_mean_is_scipys(values: Sequence[float]) -> None:
    estimate = mean_of_runs(values)
    spread = stats.sem(values)
    expected = stats.t.interval(0.95, len(values) - 1, np.mean(values), spread) if spread > 0 else (0.5, 0.5)
    assert estimate == pytest.approx((np.mean(values), *expected))


def test_a_single_run_has_no_interval() -> None:
    estimate = mean_of_runs([0.7])
    assert estimate.value == 0.7 and math.isnan(estimate.low) and math.isnan(estimate.high)


def test_the_intervals_of_means_and_drops_are_those_of_a_bootstrap_by_hand() -> None:
    rng = np.random.default_rng(0)
    before = (rng.random(150) < 0.8).astype(float)
    after = np.where(rng.random(150) < 0.7, rng.integers(0, 6, 150) / 5, before)
    resamples = [rng.integers(0, 150, 150) for _ in range(8000)]
    means = np.quantile([after[drawn].mean() for drawn in resamples], [0.025, 0.975])
    drops = np.quantile([1 - after[drawn].mean() / before[drawn].mean() for drawn in resamples], [0.025, 0.975])
    mean, drop = mean_over_examples(after.tolist()), relative_drop(before.tolist(), after.tolist())
    assert mean == pytest.approx((after.mean(), *means), abs=0.004)
    assert drop == pytest.approx((1 - after.mean() / before.mean(), *drops), abs=0.008)


def test_answers_that_agree_within_an_example_do_not_narrow_the_interval() -> None:
    answers = [1.0] * 30 + [0.0] * 20
    assert mean_over_examples(answers) == pytest.approx(tuple(wilson(30, 50)), abs=0.02)


def test_a_drop_of_the_same_answers_is_zero_and_of_none_left_is_one() -> None:
    before = [1.0, 0.0, 1.0]
    assert relative_drop(before, before) == (0.0, 0.0, 0.0)
    assert relative_drop(before, [0.0, 0.0, 0.0])[0] == 1.0


def test_drops_need_the_same_examples() -> None:
    with pytest.raises(ValueError, match="same examples"):
        relative_drop([1.0], [1.0, 0.0])


@given(st.lists(COUNTS, min_size=1, max_size=12))
def test_a_mean_over_classes_is_wilson_at_its_effective_size(counts: list[tuple[int, int]]) -> None:
    """Written as a loop; the ends are the proportions that a score test of that many examples just accepts."""
    k = len(counts)
    mean = sum(right / n for right, n in counts) / k
    variance = 0.0
    for right, n in counts:
        p = right / n
        variance += (p * (1 - p) / n + mean * (1 - mean) / n**2) / k**2
    worth = mean * (1 - mean) / variance if variance > 1e-12 else k**2 / sum(1 / n for _, n in counts)
    value, low, high = mean_over_classes(*zip(*counts, strict=True))
    assert value == pytest.approx(mean) and 0 <= low <= value + 1e-12 and value - 1e-12 <= high <= 1
    for end in (low, high):
        assert (value - end) ** 2 == pytest.approx(NORMAL_QUANTILE**2 * end * (1 - end) / worth, abs=1e-9)


@pytest.mark.parametrize(
    ("sizes", "shares"),
    [
        ([20] * 10, [0.9] * 10),
        ([10] * 43, [0.98] * 43),
        ([390, 10], [0.95, 0.6]),
        ([40] * 10, np.linspace(0.5, 1, 10).tolist()),
        ([2] * 100, [0.6] * 100),
        ([100, 30], [0.98, 0.03]),
    ],
)
def test_nineteen_in_twenty_intervals_of_a_mean_over_classes_hold_the_truth(
    sizes: list[int], shares: list[float]
) -> None:
    truth = float(np.mean(shares))
    drawn = np.random.default_rng(0).binomial(sizes, shares, size=(1000, len(sizes)))
    held = [low <= truth <= high for right in drawn.tolist() for _, low, high in [mean_over_classes(right, sizes)]]
    assert 0.93 <= np.mean(held) <= 0.99


def test_a_mean_over_even_classes_is_as_sure_as_the_plain_share() -> None:
    """Equal classes of equal shares: the same value, and an interval a little wider."""
    mean, plain = mean_over_classes([32] * 10, [40] * 10), wilson(320, 400)
    assert mean.value == plain.value
    assert plain.low - 0.005 < mean.low < plain.low and plain.high < mean.high < plain.high + 0.005
    assert tuple(mean_over_classes([40] * 10, [40] * 10)) == pytest.approx(tuple(wilson(400, 400)))
