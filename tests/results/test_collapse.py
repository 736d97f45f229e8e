"""One class for everything, and no better than chance: found whatever the share of the classes."""

from typing import Any

import pytest

from robust_student.results.class_measures import Confusion
from robust_student.results.collapse import collapse, collapse_figures
from robust_student.results.masking import judge
from robust_student.results.rows import Row, class_name

NAMES = class_name(["cat", "dog", "bird"])


def confusion(*counts: tuple[int, int, int]) -> Confusion:
    """Of (label, answer, examples)."""
    pairs = [(label, answer) for label, answer, count in counts for _ in range(count)]
    return Confusion.of({i: Row("m", "none", None, i, y, z, y == z) for i, (y, z) in enumerate(pairs)})


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ([(0, 0, 300), (1, 0, 102)], "one class for everything: the answer is 'cat' for 402 of 402 examples"),
        ([(0, 1, 30), (1, 1, 5)], "one class for everything: the answer is 'dog' for 35 of 35 examples"),
        ([(0, -1, 5), (1, -1, 5)], "the answer is 'no answer (NaN)' for 10 of 10 examples"),
        ([(0, 0, 300), (1, 0, 99), (1, 1, 3)], "one class for nearly everything: the answer is 'cat' for 399 of 402"),
        ([(0, 0, 20), (0, 1, 20), (1, 0, 20), (1, 1, 20)], "no better than chance: balanced accuracy 50.0 % ["),
        (
            [(0, 0, 270), (0, 1, 30), (1, 0, 90), (1, 1, 12)],
            "on 402 examples, where one answer for everything has 50.0",
        ),
    ],
)
def test_a_model_that_does_not_look_is_found_and_fails(counts: list[Any], words: str) -> None:
    answers = confusion(*counts)
    said = collapse(answers, NAMES)
    assert said is not None and words in said
    assert judge(collapse_figures(answers)).level == "FAIL"


@pytest.mark.parametrize(
    "counts",
    [
        [(0, 0, 300), (1, 1, 2)],  # nearly all examples are of one class, and all are right
        [(0, 0, 390), (0, 1, 10), (1, 0, 40), (1, 1, 62)],
        [(0, 0, 30), (1, 1, 10), (1, 0, 20), (2, 2, 10), (2, 0, 20)],
        [(0, 0, 40)],
        [],
    ],
)
def test_an_honest_model_is_not_blamed(counts: list[Any]) -> None:
    answers = confusion(*counts)
    assert collapse(answers, NAMES) is None and judge(collapse_figures(answers)).level == "PASS"


def test_the_figures_by_hand() -> None:
    """Of 60 examples that are no cats 45 are called cats; the way from 1 down to 1/3 ends at the interval's low end."""
    answers = confusion((0, 0, 30), (1, 0, 20), (1, 1, 10), (2, 0, 25), (2, 2, 5))
    figures = collapse_figures(answers)
    assert figures["one_answer"] == 0.75
    assert figures["chance_level"] == pytest.approx((1 - answers.balanced_accuracy().low) * 3 / 2)
    assert collapse_figures(confusion((0, 1, 10), (1, 0, 10)))["chance_level"] == 1
