"""Evaluations of several seeds, averaged."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from saved_evaluation import files, folder, marked, report
from scipy import stats

from robust_student.cli.main import main
from robust_student.report.evidence.seeds import merge
from robust_student.results.records import find


def test_seeds_are_averaged_with_students_interval(tmp_path: Path) -> None:
    contents = [marked(files(), suffix=str(k)) for k in range(3)]
    for k, content in enumerate(contents):
        for metric in ("accuracy", "accuracy_minus_kd"):
            for record in find(content["summary.json"], "robust", metric, "autoattack_linf"):
                record["value"] = 0.5 + 0.1 * k
    values = [0.5, 0.6, 0.7]
    averages = report(*(folder(tmp_path / f"s{k}", content) for k, content in enumerate(contents)), "--seeds")
    (average,) = find(
        [r | {"setting": r["setting"]} for r in averages["records"]], "robust", "accuracy", "autoattack_linf"
    )
    low, high = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
    assert (average["mean"], average["low"], average["high"]) == pytest.approx((0.6, low, high))
    assert (
        average["sd"] == pytest.approx(np.std(values, ddof=1)) and average["seeds"] == 3 and average["split"] == "test"
    )
    assert not any("_p_against_" in r["metric"] or r["metric"] == "latency" for r in averages["records"])
    assert any(
        "robust is above kd under AutoAttack (fast), L∞ 0.1: +60.0 points" in words for words in averages["words"]
    )
    assert not any("different sets of weights" in words for words in averages["words"])
    for form in ("html", "markdown"):
        main(["report", *(str(tmp_path / f"s{k}") for k in range(3)), "--seeds", "--format", form])
    assert "60.0 (10.0) [35.2, 84.8]" in (tmp_path / "s0" / "seeds.md").read_text()
    assert "60.0 (10.0) [35.2, 84.8]" in (tmp_path / "s0" / "seeds.html").read_text()


def test_the_same_weights_twice_are_no_second_seed(tmp_path: Path) -> None:
    folders = [folder(tmp_path / name, marked(files())) for name in ("a", "b")]
    averages = report(*folders, "--seeds")
    assert "kd has 1 set of weights in 2 evaluations: no interval" in " ".join(averages["words"])
    assert not any("larger than its uncertainty" in words for words in averages["words"])
    assert any("nothing is claimed, since the same weights are among them" in words for words in averages["words"])
    assert all(r["low"] is None and r["high"] is None and r["sd"] is None for r in averages["records"])


def test_a_difference_from_repeated_weights_has_no_interval(tmp_path: Path) -> None:
    contents = [marked(files(), suffix=str(k)) for k in range(2)]
    for content in contents:
        content["evaluation.json"]["fingerprint"]["models"]["kd"] = "always the same"
    averages = report(*(folder(tmp_path / f"s{k}", content) for k, content in enumerate(contents)), "--seeds")
    lower_ends = {(r["model"], r["metric"]): r["low"] for r in averages["records"] if r["perturbation"] == "none"}
    assert lower_ends["robust", "accuracy_minus_kd"] is None and lower_ends["kd", "accuracy"] is None
    assert lower_ends["robust", "accuracy"] is not None


def test_scores_over_seeds_keep_their_unit_and_say_what_was_measured(tmp_path: Path) -> None:
    contents = [marked(files(), suffix=str(k)) for k in range(2)]
    (record,) = find(contents[0]["summary.json"], "kd", "brier_score")
    folders = [str(folder(tmp_path / f"s{k}", content)) for k, content in enumerate(contents)]
    main(["report", *folders, "--seeds", "--format", "markdown"])
    page = (tmp_path / "s0" / "seeds.md").read_text()
    assert "Mean Brier score over 2 seeds" in page and f"{record['value']:.3f} (0.000)" in page
    assert "s1: teacher, kd, robust on digits, 40 of 400 test examples, 40 under attack, evaluation seed 7." in page


def test_models_that_some_seeds_lack_are_left_out_and_named(two: tuple[Path, Path]) -> None:
    averages = report(*two, "--seeds")
    assert {r["model"] for r in averages["records"]} == {"robust"}
    assert "Left out, since not every evaluation has them: teacher, kd, other." in averages["words"]


def test_shares_over_seeds_stay_between_0_and_1_and_gaps_are_left_out() -> None:
    def summary(value: float | None) -> list[dict[str, Any]]:
        common = {"model": "m", "split": "test", "perturbation": "none", "setting": None, "verdict": None}
        return [common | {"metric": "accuracy", "value": value}, common | {"metric": "accuracy_minus_kd", "value": 0.1}]

    (share, difference) = merge([summary(0.99), summary(0.7)])
    assert (share["low"], share["high"]) == (0, 1) and math.isclose(difference["sd"], 0.0)
    assert [r["metric"] for r in merge([summary(0.99), summary(None)])] == ["accuracy_minus_kd"]
