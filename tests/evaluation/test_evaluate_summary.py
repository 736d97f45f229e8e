"""The summary: recomputed from the rows, costs, baseline, and the headline."""

import math
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from toy_evaluation import DATA, FAST, models, rows_of, run

from robust_student.cli.terminal import headline
from robust_student.evaluation.evaluate import evaluate
from robust_student.evaluation.result import Evaluation
from robust_student.models.model import as_model
from robust_student.models.run_directory import save
from robust_student.objectives.methods import METHODS
from robust_student.results.intervals import median, paired_difference, wilson
from robust_student.results.rows import BREAKDOWN, EVALUATION, ROWS, SUMMARY
from robust_student.runtime.files import read_json, read_jsonl


def test_the_summary_can_be_recomputed_from_the_rows(attacked: Path) -> None:
    answers = defaultdict[tuple[str, str, float | None], dict[int, Any]](dict)
    for row in read_jsonl(attacked / ROWS):
        answers[row["model"], row["perturbation"], row["setting"]][row["index"]] = row
    checked = 0
    for record in read_json(attacked / SUMMARY):
        cell = answers.get((record["model"], record["perturbation"], record["setting"]), {})
        right = {index: row["correct"] for index, row in cell.items() if row["correct"] is not None}
        if record["metric"] == "accuracy":
            expected: tuple[float | None, ...] = wilson(sum(right.values()), len(right))
        elif record["metric"] == "accuracy_minus_kd":
            base = answers["kd", record["perturbation"], record["setting"]]
            expected = paired_difference(list(right.values()), [base[index]["correct"] for index in right])
        elif record["metric"] == "mean_realised_snr_db":
            expected = (float(np.mean([row["value"] for row in cell.values()])), None, None)
        elif record["metric"].startswith("median_"):
            cell = answers[record["model"], record["metric"].removeprefix("median_"), None]
            radii = [math.inf if row["detail"] == "infinite" else row["value"] for row in cell.values()]
            expected = median(radii)
        else:
            continue
        checked += 1
        finite = [None if number is None or not math.isfinite(number) else number for number in expected]
        assert [record["value"], record["low"], record["high"]] == pytest.approx(finite), record
        assert record["n"] == len(cell)
    assert checked == 3 * (1 + 4 + 4 + 1 + 4) + 2 * 8


def test_what_is_returned_is_what_is_written(tmp_path: Path) -> None:
    evaluation = evaluate({"m": models()["kd"]}, DATA, FAST, output=tmp_path / "out")
    written = read_json(tmp_path / "out" / SUMMARY)
    assert [asdict(record) for record in evaluation] == [
        {name: value for name, value in record.items() if name != "schema"} for record in written
    ]
    assert Evaluation.read(tmp_path / "out") == evaluation


def test_costs_are_those_of_the_saved_model(finished: Path, tmp_path: Path) -> None:
    records = read_json(finished / SUMMARY)
    cost = {r["metric"]: r["value"] for r in records if r["model"] == "new" and r["unit"] in ("count", "bytes", "ms")}
    save(as_model(models()["new"], DATA), tmp_path)
    assert cost.pop("latency") > 0
    assert cost == {"parameters": 51, "macs": 48, "file_size": (tmp_path / "model.safetensors").stat().st_size}


@pytest.mark.parametrize(("asked", "used"), [(None, "kd"), ("new", "new")])
def test_the_baseline_is_kd_unless_told_otherwise(asked: str | None, used: str, tmp_path: Path) -> None:
    records = run(tmp_path / "out", FAST.model_copy(update={"baseline": asked}))
    compared = {(r["model"], r["metric"]) for r in records if r["metric"].startswith("accuracy_minus")}
    assert compared == {(name, f"accuracy_minus_{used}") for name in models() if name != used}
    assert read_json(tmp_path / "out" / EVALUATION)["baseline"] == used


def test_without_that_name_the_baseline_is_what_plain_distillation_trained(tmp_path: Path) -> None:
    """Whatever it is called; a teacher made by distillation is not meant."""
    robust, plain = METHODS["secant"].model_dump(mode="json"), METHODS["kd"].model_dump(mode="json")
    noisy = plain | {"noise": {"share": 0.5}}
    subjects = {}
    for name, objective in {"teacher": plain, "r": robust, "n": noisy, "second": plain, "third": plain}.items():
        model = as_model(models()["kd"], DATA)
        model.card = model.card.model_copy(update={"provenance": {"settings": {"objective": objective}}})
        subjects[name] = model
    run(tmp_path / "out", FAST, subjects=subjects)
    assert read_json(tmp_path / "out" / EVALUATION)["baseline"] == "second"


def test_without_kd_nothing_is_compared(tmp_path: Path) -> None:
    records = run(tmp_path / "out", subjects={"m": models()["kd"]})
    assert not any(record["metric"].startswith("accuracy_minus") for record in records)


def test_the_headline_has_one_line_per_model(attacked: Path) -> None:
    lines = headline(Evaluation.read(attacked))
    assert [line.model for line in lines] == ["teacher", "kd", "new"]
    assert all(line.clean.perturbation == "none" for line in lines)
    assert all(line.attack is not None and line.attack.setting == 0.4 for line in lines)
    assert all(line.noise is not None and line.noise.setting in (-3, 3) for line in lines)
    assert lines[2].parameters == 51


def test_the_headline_does_without_noise_and_attack(tmp_path: Path) -> None:
    settings = FAST.model_copy(update={"snr_db": (), "pgd_linf": ()})
    (line,) = headline(evaluate({"m": models()["kd"]}, DATA, settings, output=tmp_path / "out"))
    assert line.noise is None and line.attack is None and line.clean.n == 30


def test_the_headline_shows_pgd_where_autoattack_was_not_run(finished: Path) -> None:
    lines = headline(Evaluation.read(finished))
    assert all(line.attack is not None and line.attack.perturbation == "pgd_linf" for line in lines)
    assert {line.attack.setting for line in lines if line.attack} == {0.1}


def test_the_breakdown_counts_the_rows_by_class_and_by_confidence(finished: Path) -> None:
    """Counted from the file one row at a time; scipy has the Wilson interval."""
    cells: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows_of(finished):
        if not row["perturbation"].startswith("estimated_"):
            cells.setdefault((row["model"], row["perturbation"], row["setting"]), []).append(row)
    entries = read_json(finished / BREAKDOWN)
    assert {(e["model"], e["perturbation"], e["setting"]) for e in entries} == set(cells) and len(entries) == len(cells)
    for entry in entries:
        rows = cells[entry["model"], entry["perturbation"], entry["setting"]]
        assert entry["split"] == "test" and [counts["label"] for counts in entry["classes"]] == [0, 1, 2]
        for counts in entry["classes"]:
            right = [row["correct"] for row in rows if row["label"] == counts["label"]]
            interval = stats.binomtest(sum(right), len(right)).proportion_ci(method="wilson")
            assert (counts["n"], counts["value"]) == (len(right), sum(right) / len(right))
            assert (counts["low"], counts["high"]) == pytest.approx((interval.low, interval.high), abs=1e-9)
            answered = [row["correct"] for row in rows if row["prediction"] == counts["label"]]
            assert (counts["answered"], counts["precision"]) == (
                len(answered),
                sum(answered) / len(answered) if answered else None,
            )
        pairs = [[row["label"], row["prediction"]] for row in rows]
        assert entry["confusion"] == [[*pair, pairs.count(pair)] for pair in sorted(map(list, {*map(tuple, pairs)}))]
        if entry["perturbation"] not in ("none", "gaussian_snr_db"):
            assert entry["confidence"] is None
            continue
        assert len(entry["confidence"]) == 15
        for k, counts in enumerate(entry["confidence"]):
            inside = [row for row in rows if max(math.ceil(15 * row["confidence"]) - 1, 0) == k]
            assert (counts["low"], counts["high"]) == (k / 15, (k + 1) / 15)
            assert (counts["count"], counts["right"]) == (len(inside), sum(row["correct"] for row in inside))
            mean = sum(row["confidence"] for row in inside) / len(inside) if inside else None
            assert counts["confidence"] == (None if mean is None else pytest.approx(mean))
    wrong = [e for e in entries if any(counts["value"] < 1 for counts in e["classes"])]
    assert wrong and any(counts["count"] for e in entries for counts in (e["confidence"] or [])[:14])
