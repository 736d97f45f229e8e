import json
import math
from dataclasses import asdict
from typing import Any

import pytest

from robust_student.results.breakdown import breakdown
from robust_student.results.intervals import mean_over_classes, median, paired_difference, wilson
from robust_student.results.records import COST_UNITS, find, summarise
from robust_student.results.rows import Key, Row, group

KEYS = {
    "schema",
    "model",
    "split",
    "perturbation",
    "setting",
    "unit",
    "metric",
    "value",
    "low",
    "high",
    "interval",
    "n",
    "seed",
    "verdict",
}
Record = dict[str, Any]


def rows(model: str, perturbation: str, setting: float | None, answers: list[bool | None], first: int = 0) -> list[Row]:
    """One row per answer, for the examples from `first` on."""
    return [
        Row(model, perturbation, setting, first + i, 1, 1 if right else 0, right) for i, right in enumerate(answers)
    ]


def summary(
    every: list[Row],
    *,
    baseline: str | None = None,
    verdicts: dict[str, dict[str, Any]] | None = None,
    costs: dict[str, dict[str, float]] | None = None,
) -> list[Record]:
    """Records of the rows; they must be strict JSON with the documented keys."""
    records = summarise(group(every), verdicts=verdicts or {}, costs=costs or {}, baseline=baseline, seed=9)
    assert json.loads(json.dumps(records, allow_nan=False)) == records
    assert all(set(record) == KEYS and record["seed"] == 9 and record["split"] == "test" for record in records)
    return records


def only(records: list[Record], model: str, metric: str, perturbation: str = "none") -> Record:
    (record,) = find(records, model, metric, perturbation)
    return record


def values(record: Record) -> tuple[Any, Any, Any]:
    return record["value"], record["low"], record["high"]


def test_accuracy_is_the_share_of_right_rows_with_its_wilson_interval() -> None:
    record = only(summary(rows("m", "none", None, [True, True, False, True])), "m", "accuracy")
    assert values(record) == pytest.approx(tuple(wilson(3, 4)))
    assert (record["n"], record["interval"], record["unit"], record["setting"]) == (4, "wilson95", None, None)


@pytest.mark.parametrize(
    ("perturbation", "setting", "unit"),
    [
        ("gaussian_snr_db", -5.0, "dB"),
        ("pgd_linf", 0.1, "linf"),
        ("autoattack_l2", 1.5, "l2"),
        ("pgd_l1", 3.0, "l1"),
        ("corruption_snow", 2.0, "severity"),
        ("impulse_snr_db", 3.0, "dB"),
    ],
)
def test_a_setting_has_the_unit_of_its_perturbation(perturbation: str, setting: float, unit: str) -> None:
    record = only(summary(rows("m", perturbation, setting, [True])), "m", "accuracy", perturbation)
    assert (record["setting"], record["unit"]) == (setting, unit)


def test_excluded_examples_count_for_nothing_and_are_reported() -> None:
    records = summary(rows("m", "gaussian_snr_db", 0.0, [True, None, False, None, None]))
    accuracy, excluded = (only(records, "m", name, "gaussian_snr_db") for name in ("accuracy", "excluded_examples"))
    assert (accuracy["value"], accuracy["n"]) == (0.5, 2)
    assert (*values(excluded), excluded["n"], excluded["interval"]) == (3, None, None, 5, None)


def test_accuracy_without_any_example_is_null() -> None:
    records = summary(rows("m", "gaussian_snr_db", 0.0, [None, None]), baseline="m")
    assert values(only(records, "m", "accuracy", "gaussian_snr_db")) == (None, None, None)
    assert values(only(records, "m", "mean_realised_snr_db", "gaussian_snr_db")) == (None, None, None)


def test_the_realised_snr_is_averaged_over_the_examples_that_have_one() -> None:
    noise = [Row("m", "gaussian_snr_db", 3.0, i, 0, 0, True, value) for i, value in enumerate([2.0, None, 5.0])]
    record = only(summary(noise), "m", "mean_realised_snr_db", "gaussian_snr_db")
    assert (record["value"], record["n"], record["interval"], record["unit"]) == (3.5, 2, None, "dB")


def test_models_are_compared_on_the_examples_that_both_have() -> None:
    new_rows = rows("new", "pgd_l2", 1.0, [True, True, None, True, False])
    base = rows("kd", "pgd_l2", 1.0, [False, True, True, None], first=0) + rows("kd", "pgd_l2", 1.0, [True], first=9)
    record = only(summary(new_rows + base, baseline="kd"), "new", "accuracy_minus_kd", "pgd_l2")
    assert values(record) == pytest.approx(tuple(paired_difference([True, True], [False, True])))
    assert (record["n"], record["interval"]) == (2, "paired_bootstrap95")


def test_a_model_is_compared_at_the_same_perturbation_and_setting_only() -> None:
    every = rows("new", "pgd_l2", 1.0, [True]) + rows("kd", "pgd_l2", 2.0, [False]) + rows("kd", "none", None, [True])
    assert find(summary(every, baseline="kd"), "new", "accuracy_minus_kd", "pgd_l2") == []


@pytest.mark.parametrize("baseline", [None, "kd", "absent"])
def test_the_baseline_is_not_compared_with_itself(baseline: str | None) -> None:
    records = summary(rows("kd", "none", None, [True]), baseline=baseline)
    assert [record["metric"] for record in records] == ["accuracy", "balanced_accuracy", "worst_class_accuracy"]


def radius_rows(*radii: float) -> list[Row]:
    return [
        Row("m", "estimated_decision_radius_l2", None, i, 0, 0, r > 0, None if math.isinf(r) else r, detail)
        for i, r in enumerate(radii)
        for detail in ["infinite" if math.isinf(r) else None]
    ]


@pytest.mark.parametrize(
    "radii", [(0.5, 0.0, 2.0), (0.1, math.inf, 0.3, math.inf), (math.inf, math.inf, 1.0), (1.0, 2.0, 3.0, math.inf)]
)
def test_estimated_radii_are_summed_up_by_their_median_infinite_ones_included(radii: tuple[float, ...]) -> None:
    records = summary(radius_rows(*radii), baseline="m")
    (record,) = records
    expected = [None if math.isinf(number) else number for number in median(list(radii))]
    assert list(values(record)) == expected and record["n"] == len(radii)
    assert record["metric"] == "median_estimated_decision_radius_l2" and record["perturbation"] == "none"
    assert (record["unit"], record["interval"]) == ("l2", "order_statistics95")


@pytest.mark.parametrize(
    ("perturbation", "judged"),
    [("none", False), ("gaussian_snr_db", False), ("pgd_linf", True), ("autoattack_l2", True)],
)
def test_a_verdict_is_attached_to_adversarial_records_only(perturbation: str, judged: bool) -> None:
    verdict = {"level": "WARN"}
    setting = None if perturbation == "none" else 1.0
    every = rows("m", perturbation, setting, [True]) + rows("kd", perturbation, setting, [False])
    records = summary(every, baseline="kd", verdicts={"m": verdict})
    expected = verdict if judged else None
    assert only(records, "m", "accuracy", perturbation)["verdict"] == expected
    assert only(records, "m", "accuracy_minus_kd", perturbation)["verdict"] == expected
    assert only(records, "kd", "accuracy", perturbation)["verdict"] is None


def test_costs_are_records_with_their_units() -> None:
    costs = {"parameters": 12.0, "macs": 34.0, "file_size": 56.0, "latency": 0.5}
    records = summary([], costs={"m": costs})
    assert {(r["metric"], r["value"], r["unit"]) for r in records} == {
        (name, value, COST_UNITS[name]) for name, value in costs.items()
    }
    assert all(r["n"] == 1 and r["interval"] is None and r["perturbation"] == "none" for r in records)


def test_a_later_row_replaces_an_earlier_one_of_the_same_example() -> None:
    every = rows("m", "none", None, [True, True]) + rows("m", "none", None, [False])
    groups = group(every)
    assert [row.correct for _, row in sorted(groups["m", "none", None].items())] == [False, True]
    assert only(summary(every), "m", "accuracy")["value"] == 0.5


def test_rows_are_grouped_by_model_perturbation_and_setting() -> None:
    every = (
        rows("a", "pgd_l2", 1.0, [True]) + rows("a", "pgd_l2", 2.0, [True]) + rows("b", "pgd_l2", 1.0, [True, False])
    )
    keys: list[Key] = [("a", "pgd_l2", 1.0), ("a", "pgd_l2", 2.0), ("b", "pgd_l2", 1.0)]
    assert {key: len(rows_of_key) for key, rows_of_key in group(every).items()} == dict(
        zip(keys, (1, 1, 2), strict=True)
    )


def test_records_are_found_by_growing_setting() -> None:
    every = [row for setting in (5.0, -3.0, 0.0) for row in rows("m", "gaussian_snr_db", setting, [True])]
    assert [r["setting"] for r in find(summary(every), "m", "accuracy", "gaussian_snr_db")] == [-3, 0, 5]


def test_a_row_survives_json() -> None:
    row = Row("m", "autoattack_linf", 0.1, 3, 1, 2, False, None, "square")
    assert Row(**json.loads(json.dumps(asdict(row), allow_nan=False))) == row


def test_the_worst_class_is_the_class_with_the_lowest_accuracy() -> None:
    every = [
        Row("m", "pgd_l2", 1.0, i, i % 3, i % 3 if i % 3 > 0 or i < 3 else 1, i % 3 > 0 or i < 3) for i in range(12)
    ]
    record = only(summary(every, verdicts={"m": {"level": "PASS"}}), "m", "worst_class_accuracy", "pgd_l2")
    assert values(record) == pytest.approx(tuple(wilson(1, 4)))
    assert (record["n"], record["interval"], record["verdict"]) == (4, "wilson95", {"level": "PASS"})


def test_balanced_accuracy_is_the_mean_of_the_classes_accuracies() -> None:
    """Nine of class 1 are right and one of class 0 of three: 8 in 10 is not 2 in 3."""
    every = [Row("m", "pgd_l2", 1.0, i, 1, 1, True) for i in range(9)]
    every += [Row("m", "pgd_l2", 1.0, 9 + i, 0, int(i > 0), i == 0) for i in range(3)]
    every += [Row("m", "pgd_l2", 1.0, 12, 0, 1, None)]
    record = only(summary(every, verdicts={"m": {"level": "WARN"}}), "m", "balanced_accuracy", "pgd_l2")
    assert values(record) == pytest.approx(tuple(mean_over_classes([9, 1], [9, 3])))
    assert record["value"] == pytest.approx((1 + 1 / 3) / 2)
    assert (record["n"], record["interval"], record["verdict"]) == (12, "stratified_wilson95", {"level": "WARN"})


def test_calibration_is_recorded_where_confidences_are() -> None:
    scored = [Row("m", "none", None, i, 0, 0, i > 1, confidence=0.9, nll=0.1 * i, brier=0.02) for i in range(8)]
    records = summary([*scored, *rows("m", "pgd_l2", 1.0, [True])])
    error = only(records, "m", "expected_calibration_error")
    assert (error["value"], error["n"], error["interval"]) == (pytest.approx(0.9 - 6 / 8), 8, "bootstrap95")
    loss = only(records, "m", "negative_log_likelihood")
    assert (loss["value"], loss["unit"]) == (pytest.approx(0.35), "nats") and loss["low"] < 0.35 < loss["high"]
    assert only(records, "m", "brier_score")["value"] == pytest.approx(0.02)
    assert find(records, "m", "brier_score", "pgd_l2") == []


def test_tests_are_corrected_for_the_comparisons_made_together() -> None:
    every = []
    for model, right in (("kd", 10), ("new", 20)):
        every += [row for s in (1.0, 2.0) for row in rows(model, "pgd_l2", s, [i < right for i in range(20)])]
        every += rows(model, "corruption_fog", 3.0, [i < 10 for i in range(20)])
    records = summary(every, baseline="kd")
    p = 2 / 2**10
    alone, many = (find(records, "new", f"{test}_p_against_kd", "pgd_l2")[0] for test in ("mcnemar", "holm"))
    assert (alone["value"], alone["n"]) == (pytest.approx(p), 20)
    assert (many["value"], many["n"]) == (pytest.approx(2 * p), 2)  # corruptions are a family of their own
    assert only(records, "new", "holm_p_against_kd", "corruption_fog")["n"] == 1


def test_rows_of_older_versions_are_read() -> None:
    old: dict[str, Any] = {
        "model": "m",
        "perturbation": "none",
        "setting": None,
        "index": 3,
        "label": 1,
        "prediction": 1,
    }
    row = Row(**old, correct=True, value=None, detail=None)
    assert (row.confidence, row.nll, row.brier) == (None, None, None)


def test_a_breakdown_counts_by_class_and_by_confidence() -> None:
    scored = [
        Row("m", "none", None, i, i % 2, 0, i % 2 == 0, confidence=c, nll=0.0, brier=0.0)
        for i, c in enumerate([0.5, 0.51, 0.99, 1.0, 0.0])
    ]
    attacked = rows("m", "pgd_l2", 1.0, [True, None])
    clean, attack = breakdown(group([*scored, *attacked, *radius_rows(1.0)]))
    assert [(c["label"], c["value"], c["n"]) for c in clean["classes"]] == [(0, 1.0, 3), (1, 0.0, 2)]
    zero, one = clean["classes"]
    assert (zero["precision"], zero["answered"], zero["f1"]) == (0.6, 5, 0.75)
    assert (zero["precision_low"], zero["precision_high"]) == wilson(3, 5)[1:]
    assert (one["precision"], one["precision_low"], one["answered"], one["f1"]) == (None, None, 0, 0.0)
    assert clean["confusion"] == [[0, 0, 3], [1, 0, 2]] and attack["confusion"] == [[1, 1, 1]]
    filled = {k: (b["count"], b["right"]) for k, b in enumerate(clean["confidence"]) if b["count"]}
    assert filled == {0: (1, 1), 7: (2, 1), 14: (2, 1)} and len(clean["confidence"]) == 15
    assert clean["confidence"][7]["confidence"] == pytest.approx(0.505)
    assert attack["confidence"] is None and [c["n"] for c in attack["classes"]] == [1]
    assert (attack["perturbation"], attack["setting"], attack["split"]) == ("pgd_l2", 1.0, "test")


def test_means_over_corruptions_rest_on_the_examples_that_were_corrupted() -> None:
    every = rows("m", "none", None, [True, True, False, False, True, True])
    every += rows("m", "corruption_snow", 1.0, [True, True, False, True])
    every += rows("m", "corruption_snow", 2.0, [True, False, False, True])
    every += rows("m", "corruption_fog", 1.0, [True, False, False, False])
    records = summary(every)
    mean = only(records, "m", "mean_corruption_accuracy", "corruptions")
    drop = only(records, "m", "relative_corruption_drop", "corruptions")
    assert (mean["value"], mean["n"]) == (pytest.approx(6 / 12), 4)
    assert (drop["value"], drop["n"]) == (pytest.approx((2 / 4 - 6 / 12) / (2 / 4)), 4)


def test_a_model_that_is_never_right_has_no_relative_drop() -> None:
    every = rows("m", "none", None, [False, False]) + rows("m", "corruption_fog", 1.0, [False, True])
    drop = only(summary(every), "m", "relative_corruption_drop", "corruptions")
    assert values(drop) == (None, None, None)
