import json
from typing import Any

import pytest

from robust_student.masking import judge

CLEAN: dict[str, float] = {
    "zero_gradients": 0.0,
    "nan_gradients": 0.0,
    "square_only": 0.0,
    "unbounded_accuracy": 0.0,
}


@pytest.mark.parametrize(
    ("figure", "value", "level"),
    [
        ("zero_gradients", 0.01, "PASS"),
        ("zero_gradients", 0.011, "WARN"),
        ("zero_gradients", 0.1, "WARN"),
        ("zero_gradients", 0.101, "FAIL"),
        ("nan_gradients", 0.001, "FAIL"),
        ("square_only", 0.005, "PASS"),
        ("square_only", 0.006, "WARN"),
        ("square_only", 0.05, "WARN"),
        ("square_only", 0.051, "FAIL"),
        ("unbounded_accuracy", 0.02, "PASS"),
        ("unbounded_accuracy", 0.021, "WARN"),
        ("unbounded_accuracy", 0.1, "WARN"),
        ("unbounded_accuracy", 0.101, "FAIL"),
    ],
)
def test_each_figure_has_its_thresholds(figure: str, value: float, level: str) -> None:
    verdict = judge(**CLEAN | {figure: value})
    assert verdict.level == level and len(verdict.reasons) == (level != "PASS")
    assert getattr(verdict, figure) == value


@pytest.mark.parametrize(
    ("figure", "words"),
    [
        ("zero_gradients", "exactly zero"),
        ("nan_gradients", "NaN or infinite"),
        ("square_only", "Square"),
        ("unbounded_accuracy", "unlimited budget"),
    ],
)
def test_a_reason_names_what_was_found_and_how_much(figure: str, words: str) -> None:
    (reason,) = judge(**CLEAN | {figure: 0.25}).reasons
    assert words in reason and "25.0%" in reason


def test_the_worst_finding_decides_and_all_are_listed() -> None:
    verdict = judge(zero_gradients=0.02, nan_gradients=0.0, square_only=0.2, unbounded_accuracy=0.05)
    assert verdict.level == "FAIL" and len(verdict.reasons) == 3
    assert judge(zero_gradients=0.02, nan_gradients=0.0, square_only=0.01, unbounded_accuracy=0.0).level == "WARN"


def test_figures_that_were_not_measured_do_not_count_against_a_model() -> None:
    verdict = judge(zero_gradients=0.0, nan_gradients=0.0, square_only=None, unbounded_accuracy=None)
    assert verdict.level == "PASS" and verdict.square_only is None and verdict.unbounded_accuracy is None


def test_a_verdict_is_plain_json() -> None:
    plain: dict[str, Any] = judge(**CLEAN | {"square_only": 0.01}).as_dict()
    assert json.loads(json.dumps(plain)) == plain
    assert set(plain) == {"level", "reasons", *CLEAN}
