import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robust_student.results.masking import CHECKS, CheckName, judge

CLEAN: dict[CheckName, float] = dict.fromkeys(CHECKS, 0.0)
"""A model in which no check finds anything."""
ENDS: list[tuple[CheckName, float, str]] = [
    ("zero_gradients", 0.01, "PASS"),
    ("zero_gradients", 0.011, "WARN"),
    ("zero_gradients", 0.1, "WARN"),
    ("zero_gradients", 0.101, "FAIL"),
    ("nan_gradients", 0.001, "FAIL"),
    ("random_outputs", 0.001, "WARN"),
    ("random_outputs", 0.011, "FAIL"),
    ("batch_outputs", 0.01, "PASS"),
    ("batch_outputs", 0.011, "WARN"),
    ("batch_outputs", 0.101, "FAIL"),
    ("probability_outputs", 0.5, "PASS"),
    ("probability_outputs", 1.0, "WARN"),
    ("square_only", 0.005, "PASS"),
    ("square_only", 0.006, "WARN"),
    ("square_only", 0.05, "WARN"),
    ("square_only", 0.051, "FAIL"),
    ("unbounded_accuracy", 0.02, "PASS"),
    ("unbounded_accuracy", 0.021, "WARN"),
    ("unbounded_accuracy", 0.1, "WARN"),
    ("unbounded_accuracy", 0.101, "FAIL"),
    ("margin_only", 1.0, "WARN"),
    ("one_answer", 0.8, "PASS"),
    ("one_answer", 0.95, "WARN"),
    ("one_answer", 0.951, "FAIL"),
    ("chance_level", 0.95, "PASS"),
    ("chance_level", 0.99, "WARN"),
    ("chance_level", 1.0, "FAIL"),
]


@pytest.mark.parametrize(("figure", "value", "level"), ENDS)
def test_each_figure_has_its_thresholds(figure: CheckName, value: float, level: str) -> None:
    verdict = judge(CLEAN | {figure: value})
    assert verdict.level == level and len(verdict.reasons) == (level != "PASS")
    assert verdict.figures[figure] == value and verdict.fired == ({} if level == "PASS" else {figure: level})


@pytest.mark.parametrize("figure", list(CHECKS))
def test_a_reason_names_what_was_found_and_how_much(figure: CheckName) -> None:
    (reason,) = judge(CLEAN | {figure: 0.9999}).reasons
    assert reason == f"100.0% {CHECKS[figure].words}"


@given(st.sampled_from(list(CHECKS)), st.floats(0, 1), st.floats(0, 1))
def test_a_larger_share_is_never_judged_more_kindly(figure: CheckName, first: float, second: float) -> None:
    order = ["PASS", "WARN", "FAIL"]
    low, high = sorted([first, second])
    assert order.index(CHECKS[figure].level(low)) <= order.index(CHECKS[figure].level(high))


def test_the_worst_finding_decides_and_all_are_listed() -> None:
    verdict = judge(CLEAN | {"zero_gradients": 0.02, "square_only": 0.2, "unbounded_accuracy": 0.05})
    assert verdict.level == "FAIL" and len(verdict.reasons) == 3
    assert verdict.fired == {"zero_gradients": "WARN", "unbounded_accuracy": "WARN", "square_only": "FAIL"}
    assert judge(CLEAN | {"zero_gradients": 0.02, "square_only": 0.01}).level == "WARN"


def test_a_check_that_did_not_run_is_null_and_named_and_does_not_count() -> None:
    verdict = judge({"zero_gradients": 0.0}, {"square_only": "AutoAttack was not run"})
    assert verdict.level == "PASS" and verdict.figures["square_only"] is None
    assert set(verdict.not_run) == set(CHECKS) - {"zero_gradients"}
    assert verdict.not_run["square_only"] == "AutoAttack was not run"
    assert judge(CLEAN).not_run == {}


def test_a_verdict_says_how_many_examples_each_share_is_one_of() -> None:
    verdict = judge({"zero_gradients": 0.0, "square_only": 0.02}, examples={"zero_gradients": 200, "square_only": 100})
    assert verdict.as_dict()["examples"] == {"zero_gradients": 200, "square_only": 100}


def test_a_verdict_is_plain_json() -> None:
    plain = judge(CLEAN | {"square_only": 0.01}).as_dict()
    assert json.loads(json.dumps(plain)) == plain
    assert set(plain) == {"level", "reasons", "fired", "not_run", "examples", *CHECKS}
