"""Evaluations follow what the runs were trained for, and say what they chose."""

import logging
from typing import Any

import pytest
from reference import toy_data

from robust_student.evaluation.settings import CertificationSettings, EvaluationSettings
from robust_student.evaluation.threats import Threats, certified_threats
from robust_student.models.model import Model, as_model

DATA = toy_data(train=6, test=6)


def run(norm: str, radius: float | None, weight: float = 5.0) -> Model:
    """A model whose card says what `distill` would write."""
    model = as_model("linear", DATA)
    objective = {"norm": norm, "radius": radius, "distillation": {"temperature": 4.0}, "secant": {"weight": weight}}
    model.card = model.card.model_copy(update={"provenance": {"settings": {"objective": objective}}})
    return model


def threats(runs: dict[str, Model], **settings: Any) -> Threats:
    return Threats.of(DATA, EvaluationSettings(**settings), runs)


def budgets(chosen: Threats, norm: Any) -> list[float]:
    return [threat.budget for threat in chosen.pgd[norm]]


def test_norm_and_radius_are_those_of_the_run() -> None:
    chosen = threats({"teacher": as_model("linear", DATA), "kd": run("linf", 0.3, 0.0), "robust": run("l2", 8 / 255)})
    assert (chosen.autoattack.norm.name, chosen.autoattack.budget) == ("l2", 8 / 255)
    assert budgets(chosen, "l2") == pytest.approx([f * 8 / 255 for f in (0.25, 0.5, 1, 1.5, 2)], rel=1e-3)
    assert 8 / 255 in budgets(chosen, "l2")
    assert budgets(chosen, "linf") == budgets(threats({}), "linf")
    assert chosen.words == "l2 0.03137, what robust was trained for"


def test_of_several_radii_the_largest_is_taken_and_pgd_has_all(caplog: pytest.LogCaptureFixture) -> None:
    runs = {"a": run("linf", 0.03), "b": run("linf", 0.1), "c": run("l2", 0.7)}
    with caplog.at_level(logging.WARNING):
        chosen = threats(runs)
    words = "linf 0.1, what b was trained for (the runs: a linf 0.03, b linf 0.1, c l2 0.7)"
    assert chosen.words == words and words in caplog.text
    assert (chosen.autoattack.norm.name, chosen.autoattack.budget) == ("linf", 0.1)
    assert budgets(chosen, "linf") == [0.025, 0.03, 0.05, 0.1, 0.15, 0.2]
    assert 0.7 in budgets(chosen, "l2") and max(budgets(chosen, "l2")) == 1.4


def test_what_is_named_wins_and_the_runs_are_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        chosen = threats({"a": run("linf", 0.03)}, autoattack_radius=0.05)
    assert chosen.words == "linf 0.05, as given (the runs: a linf 0.03)" and "as given" in caplog.text
    assert chosen.autoattack.budget == 0.05 and {0.05, 0.03} <= set(budgets(chosen, "linf"))
    assert threats({"a": run("linf", 0.03)}, autoattack_norm="l2").words.startswith("l2 ")
    assert budgets(threats({"a": run("linf", 0.03)}, pgd_linf=(0.2,)), "linf") == [0.2]


def test_without_such_a_run_it_is_the_default(caplog: pytest.LogCaptureFixture) -> None:
    chosen = threats({"kd": run("l2", 0.3, 0.0), "own": as_model("linear", DATA)})
    assert chosen.words == "linf 0.1, the default: no run was trained against perturbations"
    assert budgets(chosen, "linf") == [0.025, 0.05, 0.1, 0.15, 0.2] and caplog.text == ""
    assert threats({"a": run("linf", None)}).words == "linf 0.1, what a was trained for"


def test_certificates_follow_the_runs_too() -> None:
    threat, certified, words = certified_threats(
        DATA, CertificationSettings(), {"a": run("l2", 0.7), "b": run("l2", 0.5)}
    )
    assert (threat.norm.name, threat.budget, words[:6]) == ("l2", 0.7, "l2 0.7")
    assert [budget.budget for budget in certified] == [0.14, 0.35, 0.5, 0.7]
    named = CertificationSettings(norm="linf", budgets=(0.02,))
    threat, certified, _ = certified_threats(DATA, named, {"a": run("l2", 0.7)})
    assert threat.norm.name == "linf" and [budget.budget for budget in certified] == [0.02]
