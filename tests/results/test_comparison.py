import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from robust_student.results.comparison import Difference, adjust, holm, in_words, mcnemar, p_text, paired, unpaired
from robust_student.results.intervals import Estimate, paired_difference

COUNTS = st.integers(0, 60)
P_VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=5)


@given(COUNTS, COUNTS)
def test_mcnemar_is_the_exact_binomial_test_of_the_discordant_pairs(gained: int, lost: int) -> None:
    expected = stats.binomtest(gained, gained + lost, 0.5).pvalue if gained + lost else 1.0
    assert mcnemar(gained, lost) == pytest.approx(expected, abs=1e-12)


@given(P_VALUES)
def test_holm_is_the_closed_test_of_every_set_of_hypotheses(p_values: list[float]) -> None:
    """A hypothesis falls when Bonferroni rejects every set of hypotheses that contains it (Marcus et al. 1976)."""
    everyone = range(len(p_values))
    sets = [subset for size in range(1, len(p_values) + 1) for subset in itertools.combinations(everyone, size)]
    level = {subset: min(1.0, len(subset) * min(p_values[k] for k in subset)) for subset in sets}
    expected = [max(level[subset] for subset in sets if k in subset) for k in everyone]
    assert holm(p_values) == pytest.approx(expected)


def test_mcnemar_and_holm_keep_their_promise() -> None:
    """With no true difference, at most about one family in twenty has a significant comparison."""
    rng = np.random.default_rng(0)
    families = 400
    alarms = 0
    for _ in range(families):
        halves = [rng.binomial(40, 0.5) for _ in range(10)]
        alarms += min(holm([mcnemar(half, 40 - half) for half in halves])) <= 0.05
    assert alarms / families <= 0.06


def test_a_paired_comparison_has_the_bootstrap_interval_and_counts_the_discordant_pairs() -> None:
    first, second = [True] * 12 + [False] * 8, [True] * 2 + [False] * 11 + [True] * 7
    difference = paired(first, second)
    assert difference.estimate == paired_difference(first, second) and difference.n == (20,) and difference.paired
    assert difference.p == pytest.approx(stats.binomtest(10, 17, 0.5).pvalue)
    with pytest.raises(ValueError, match="same examples"):
        paired([True], [True, False])


def test_newcombes_interval_is_the_published_one() -> None:
    """Newcombe (1998), table II: 56/70 against 48/80 has the hybrid score interval [0.0524, 0.3339]."""
    difference = unpaired([True] * 56 + [False] * 14, [True] * 48 + [False] * 32)
    assert difference.estimate == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)
    assert not difference.paired and difference.n == (70, 80)
    assert difference.p == pytest.approx(stats.fisher_exact([[56, 14], [48, 32]])[1])


def test_the_unpaired_interval_covers_the_true_difference() -> None:
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(400):
        estimate = unpaired((rng.random(80) < 0.9).tolist(), (rng.random(50) < 0.7).tolist()).estimate
        inside += estimate.low <= 0.2 <= estimate.high
    assert 0.92 <= inside / 400 <= 0.99


def test_nothing_compared_says_so() -> None:
    assert math.isnan(unpaired([], [True]).estimate.value)
    assert in_words(paired([], []), "a", "b", "here") == "a and b were not compared here"


def test_adjusting_knows_how_many_comparisons_there_were() -> None:
    one = Difference(Estimate(0.1, 0.02, 0.18), (200,), 0.02, "McNemar")
    assert one.distinguishable
    many = adjust([one] * 10)
    assert all(d.adjusted_p == pytest.approx(0.2) and d.family == 10 and not d.distinguishable for d in many)


def test_the_words_say_whether_a_difference_is_larger_than_its_uncertainty() -> None:
    clear = Difference(Estimate(0.392, 0.331, 0.45), (200,), 1e-9, "McNemar")
    where = "under AutoAttack"
    assert in_words(clear, "secant", "kd", where) == (
        "secant is 39.2 points [33.1, 45.0] above kd under AutoAttack; larger than its uncertainty "
        "(McNemar p < 0.001, n = 200)"
    )
    below = Difference(Estimate(-0.05, -0.08, -0.02), (200, 1000), 0.01, "Fisher", 0.03, 3)
    assert in_words(below, "a", "b", where) == (
        "a is 5.0 points [2.0, 8.0] below b under AutoAttack; larger than its uncertainty "
        "(Fisher p = 0.01, Holm over 3 comparisons p = 0.03, n = 200 and 1,000, unpaired)"
    )
    lost = Difference(Estimate(0.05, 0.01, 0.09), (200,), 0.02, "McNemar", 0.4, 20)
    assert in_words(lost, "a", "b", where) == (
        "a and b are not distinguishable under AutoAttack: +5.0 points [1.0, 9.0] "
        "(McNemar p = 0.02, Holm over 20 comparisons p = 0.4, n = 200); alone it would be, but not among so many "
        "comparisons"
    )
    unknown = Difference(Estimate(0.05, math.nan, math.nan), (200,), None, "McNemar")
    assert in_words(unknown, "a", "b", where) == "a and b differ by +5.0 points under AutoAttack, without an interval"


@pytest.mark.parametrize(("p", "text"), [(1e-5, "p < 0.001"), (0.0321, "p = 0.032"), (1.0, "p = 1")])
def test_p_values_are_written_for_people(p: float, text: str) -> None:
    assert p_text(p) == text
