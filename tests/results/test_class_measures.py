"""Confusion matrix, recall, precision, F1 and balanced accuracy, by hand and against scikit-learn."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, precision_recall_fscore_support

from robust_student.results.class_measures import Confusion
from robust_student.results.intervals import wilson
from robust_student.results.rows import Row

PAIRS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=60)


def cell(pairs: list[tuple[int, int]]) -> dict[int, Row]:
    """A row for each (label, answer)."""
    return {i: Row("m", "none", None, i, label, answer, label == answer) for i, (label, answer) in enumerate(pairs)}


def test_by_hand() -> None:
    """Six cats, of which four are right and two are dogs; three dogs, of which one is right, one a cat, one NaN."""
    pairs = [(0, 0)] * 4 + [(0, 1)] * 2 + [(1, 1), (1, 0), (1, -1)]
    confusion = Confusion.of(cell(pairs))
    assert confusion.classes == (-1, 0, 1)
    assert confusion.counts == ((0, 0, 0), (0, 4, 2), (1, 1, 1))
    cat, dog = confusion.measures()
    assert (cat.label, cat.n, cat.answered) == (0, 6, 5) and (dog.label, dog.n, dog.answered) == (1, 3, 3)
    assert cat.recall == wilson(4, 6) and cat.precision == wilson(4, 5)
    assert dog.recall == wilson(1, 3) and dog.precision == wilson(1, 3)
    assert cat.f1 == pytest.approx(2 * (4 / 6) * (4 / 5) / (4 / 6 + 4 / 5)) and dog.f1 == pytest.approx(1 / 3)
    assert confusion.balanced_accuracy().value == pytest.approx((4 / 6 + 1 / 3) / 2)
    assert confusion.sparse == [[0, 0, 4], [0, 1, 2], [1, -1, 1], [1, 0, 1], [1, 1, 1]]


@given(PAIRS)
def test_against_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    labels, answers = zip(*pairs, strict=True)
    confusion = Confusion.of(cell(pairs))
    triples = {(label, answer): count for label, answer, count in confusion.sparse}
    grid = [[triples.get((label, answer), 0) for answer in range(5)] for label in range(5)]
    assert grid == confusion_matrix(labels, answers, labels=range(5)).tolist()
    present = sorted(set(labels))
    expected = precision_recall_fscore_support(labels, answers, labels=present, zero_division=0)
    measures = confusion.measures()
    assert [m.label for m in measures] == present and [m.n for m in measures] == expected[3].tolist()
    precisions = [0.0 if math.isnan(m.precision.value) else m.precision.value for m in measures]
    for figures, theirs in zip(([*precisions], [m.recall.value for m in measures]), expected[:2], strict=True):
        assert figures == pytest.approx(theirs.tolist())
    assert [m.f1 for m in measures] == pytest.approx(expected[2].tolist())
    if set(answers) <= set(labels) and len(present) > 1:
        assert confusion.balanced_accuracy().value == pytest.approx(balanced_accuracy_score(labels, answers))


def test_a_class_that_is_never_the_answer_has_no_precision() -> None:
    _, never = Confusion.of(cell([(0, 0), (1, 0)])).measures()
    assert math.isnan(never.precision.value) and never.answered == 0 and never.f1 == 0


def test_excluded_examples_do_not_count() -> None:
    rows = cell([(0, 0), (1, 0)]) | {2: Row("m", "none", None, 2, 1, 1, None)}
    assert Confusion.of(rows).counts == ((1, 0), (1, 0))
    assert Confusion.of({}).measures() == [] and math.isnan(Confusion.of({}).balanced_accuracy().value)


def test_classes_are_unbalanced_from_one_and_a_half_on() -> None:
    assert not Confusion.of(cell([(0, 0)] * 3 + [(1, 1)] * 2)).unbalanced
    assert Confusion.of(cell([(0, 0)] * 4 + [(1, 1)] * 2 + [(2, 0)] * 3)).unbalanced
    assert not Confusion.of({}).unbalanced
