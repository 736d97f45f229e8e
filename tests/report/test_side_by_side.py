"""Several evaluations: side by side, and averaged over seeds."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report.test_write import FAIL, Files, files, save
from scipy import stats

from robust_student.cli.main import main
from robust_student.report.evaluation import read
from robust_student.report.seeds import merge
from robust_student.report.side_by_side import compare
from robust_student.results.records import find


def marked(content: Files, test: str | None = "t", suffix: str = "") -> Files:
    """With checksums of the test set and the weights."""
    if test is not None:
        weights = {name: f"{name}{suffix}" for name in content["evaluation.json"]["models"]}
        content["evaluation.json"]["fingerprint"] = {"test": test, "models": weights}
    return content


def folder(path: Path, content: Files) -> Path:
    path.mkdir()
    return save(path, content)


def report(*words: str | Path) -> dict[str, Any]:
    """What the command writes as JSON into the first directory's report."""
    main(["report", *map(str, words), "--format", "json", "--overwrite"])
    kind = "comparison" if "--compare" in words else "seeds"
    return json.loads((Path(words[0]) / f"{kind}.json").read_text())


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    """Two evaluations on the same examples; in the second one `robust` is what `kd` is in the first."""
    first = folder(tmp_path / "first", marked(files()))
    return first, folder(tmp_path / "second", marked(files({"kd": "robust", "teacher": "other"}), suffix="2"))


def test_models_are_paired_by_name_else_with_the_baseline(two: tuple[Path, Path]) -> None:
    found = report(*two, "--compare")
    attacked = {d["first"]["model"]: d for d in found["differences"] if d["perturbation"] == "autoattack_linf"}
    assert attacked["robust"]["second"] == {"evaluation": "first", "model": "robust"}
    assert attacked["other"]["second"] == {"evaluation": "first", "model": "kd"}
    mine = attacked["robust"]
    assert mine["value"] == pytest.approx((5 - 27) / 40) and mine["paired"] and mine["n"] == [40]
    assert mine["p"] == pytest.approx(stats.binomtest(0, 22, 0.5).pvalue)
    assert mine["comparisons"] == len(found["differences"]) and mine["holm_p"] >= mine["p"]
    assert mine["larger_than_uncertainty"] and mine["split"] == "test"
    assert mine["words"].startswith("robust (second) is 55.0 points [40.0, 70.0] below robust (first) under AutoAttack")


@pytest.mark.parametrize(("first", "second"), [("t", "other"), ("t", None), (None, None)])
def test_other_or_unknown_test_sets_are_compared_unpaired(
    tmp_path: Path, first: str | None, second: str | None
) -> None:
    folders = folder(tmp_path / "a", marked(files(), first)), folder(tmp_path / "b", marked(files(), second))
    found = compare({place.name: read(place) for place in folders})
    assert found and not any(pair.difference.paired for pair in found)
    assert all(pair.difference.n == (40, 40) and pair.difference.test == "Fisher" for pair in found)
    main(["report", *map(str, folders), "--compare", "--format", "markdown"])
    assert "unpaired" in (tmp_path / "a" / "comparison.md").read_text()


def test_examples_are_paired_where_half_are_shared(tmp_path: Path) -> None:
    a, b, c = (marked(files({"kd": "kd"})) for _ in range(3))
    for content, least in ((b, 20), (c, 30)):
        for row in content["rows.jsonl"]:
            row["index"] += least
    pairs = compare({k: read(folder(tmp_path / k, v)) for k, v in {"a": a, "b": b, "c": c}.items()})
    n = {pair.first[0]: pair.difference.n for pair in pairs}
    assert n == {"b": (20,), "c": (40, 40)}


def test_masking_and_other_suites_take_the_evidence_away(tmp_path: Path) -> None:
    other = marked(files(verdicts={"robust": FAIL}))
    other["evaluation.json"]["autoattack_suite"] = "standard"
    other["evaluation.json"]["provenance"]["settings"]["pgd_steps"] = 7
    folders = folder(tmp_path / "a", marked(files())), folder(tmp_path / "b", other)
    found = {
        d["first"]["model"]: d for d in report(*folders, "--compare")["differences"] if "auto" in d["perturbation"]
    }
    assert "masking verdict of robust (b) FAIL" in found["robust"]["words"]
    assert "AutoAttack suites standard and fast differ" in found["kd"]["words"]
    assert "the weights are the same" in found["kd"]["words"] and not found["kd"]["larger_than_uncertainty"]
    main(["report", *map(str, folders), "--compare"])
    page = (folders[0] / "comparison.html").read_text()
    assert "The setting pgd_steps differs: a 50, b 7." in page and "FAIL" in page and "test split" in page


def test_seeds_are_averaged_with_students_interval(tmp_path: Path) -> None:
    contents = [marked(files(), suffix=str(k)) for k in range(3)]
    for k, content in enumerate(contents):
        for metric in ("accuracy", "accuracy_minus_kd"):
            for record in find(content["summary.json"], "robust", metric, "autoattack_linf"):
                record["value"] = 0.5 + 0.1 * k
    values = [0.5, 0.6, 0.7]
    found = report(*(folder(tmp_path / f"s{k}", content) for k, content in enumerate(contents)), "--seeds")
    (mine,) = find([r | {"setting": r["setting"]} for r in found["records"]], "robust", "accuracy", "autoattack_linf")
    low, high = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
    assert (mine["mean"], mine["low"], mine["high"]) == pytest.approx((0.6, low, high))
    assert mine["sd"] == pytest.approx(np.std(values, ddof=1)) and mine["seeds"] == 3 and mine["split"] == "test"
    assert not any("_p_against_" in r["metric"] or r["metric"] == "latency" for r in found["records"])
    assert any("robust is above kd under AutoAttack (fast), L∞ 0.1: +60.0 points" in words for words in found["words"])
    assert not any("different sets of weights" in words for words in found["words"])
    for form in ("html", "markdown"):
        main(["report", *(str(tmp_path / f"s{k}") for k in range(3)), "--seeds", "--format", form])
    assert "60.0 (10.0) [35.2, 84.8]" in (tmp_path / "s0" / "seeds.md").read_text()
    assert "60.0 (10.0) [35.2, 84.8]" in (tmp_path / "s0" / "seeds.html").read_text()


def test_the_same_weights_twice_are_no_second_seed(tmp_path: Path) -> None:
    folders = [folder(tmp_path / name, marked(files())) for name in ("a", "b")]
    found = report(*folders, "--seeds")
    assert "kd has 1 set of weights in 2 evaluations: no interval" in " ".join(found["words"])
    assert not any("larger than its uncertainty" in words for words in found["words"])
    assert any("nothing is claimed, since the same weights are among them" in words for words in found["words"])
    assert all(r["low"] is None and r["high"] is None and r["sd"] is None for r in found["records"])


def test_a_difference_from_repeated_weights_has_no_interval(tmp_path: Path) -> None:
    contents = [marked(files(), suffix=str(k)) for k in range(2)]
    for content in contents:
        content["evaluation.json"]["fingerprint"]["models"]["kd"] = "always the same"
    found = report(*(folder(tmp_path / f"s{k}", content) for k, content in enumerate(contents)), "--seeds")
    known = {(r["model"], r["metric"]): r["low"] for r in found["records"] if r["perturbation"] == "none"}
    assert known["robust", "accuracy_minus_kd"] is None and known["kd", "accuracy"] is None
    assert known["robust", "accuracy"] is not None


def test_scores_over_seeds_keep_their_unit_and_say_what_was_measured(tmp_path: Path) -> None:
    contents = [marked(files(), suffix=str(k)) for k in range(2)]
    (record,) = find(contents[0]["summary.json"], "kd", "brier_score")
    folders = [str(folder(tmp_path / f"s{k}", content)) for k, content in enumerate(contents)]
    main(["report", *folders, "--seeds", "--format", "markdown"])
    page = (tmp_path / "s0" / "seeds.md").read_text()
    assert "Mean Brier score over 2 seeds" in page and f"{record['value']:.3f} (0.000)" in page
    assert "s1: teacher, kd, robust on digits, 40 of 400 test examples, 40 under attack, evaluation seed 7." in page


def test_figures_that_are_no_evidence_are_marked_side_by_side(tmp_path: Path) -> None:
    folders = folder(tmp_path / "a", marked(files())), folder(tmp_path / "b", marked(files(verdicts={"kd": FAIL})))
    main(["report", *map(str, folders), "--compare", "--format", "markdown"])
    table = (folders[0] / "comparison.md").read_text().split("## Accuracy")[1].split("## Masking")[0]
    (line,) = [line for line in table.splitlines() if "AutoAttack" in line]
    assert line.count("(FAIL), n = 40") == 1 and line.count("n = 40") == 6
    (clean,) = [line for line in table.splitlines() if line.startswith("| Clean")]
    assert "FAIL" not in clean


def test_models_that_some_seeds_lack_are_left_out_and_named(two: tuple[Path, Path]) -> None:
    found = report(*two, "--seeds")
    assert {r["model"] for r in found["records"]} == {"robust"}
    assert "Left out, since not every evaluation has them: teacher, kd, other." in found["words"]


def test_shares_over_seeds_stay_between_0_and_1_and_gaps_are_left_out() -> None:
    def summary(value: float | None) -> list[dict[str, Any]]:
        common = {"model": "m", "split": "test", "perturbation": "none", "setting": None, "verdict": None}
        return [common | {"metric": "accuracy", "value": value}, common | {"metric": "accuracy_minus_kd", "value": 0.1}]

    (share, difference) = merge([summary(0.99), summary(0.7)])
    assert (share["low"], share["high"]) == (0, 1) and math.isclose(difference["sd"], 0.0)
    assert [r["metric"] for r in merge([summary(0.99), summary(None)])] == ["accuracy_minus_kd"]


def test_what_does_not_belong_together_is_refused_in_one_line(
    two: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = map(str, two)
    strange = marked(files())
    strange["evaluation.json"]["classes"] = ["other", "one"]
    strangers = str(folder(tmp_path / "strangers", marked(files({"kd": "nobody"}))))
    third = str(folder(tmp_path / "third", strange))
    proofs = tmp_path / "proofs"
    proofs.mkdir()
    (proofs / "certification.json").write_text("{}")
    for words, reason in (
        ([first, "--compare"], "two or more"),
        ([first, first, "--seeds"], "named twice"),
        ([first, strangers, "--seeds"], "no model of the same name"),
        ([first, third, "--compare"], "other classes"),
        ([first, third, "--seeds"], "other classes"),
        ([first, str(proofs), "--compare"], "takes evaluations only"),
        ([first, second, "--compare", "--seeds"], "exclude each other"),
        ([first, second, "--compare", "--certificates", str(proofs)], "--certificates"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(["report", *words])
        error = capsys.readouterr().err
        assert stop.value.code == 2 and reason in error and error.count("\n") == 1, words
    assert not list(two[0].glob("comparison.*")) and not list(two[0].glob("seeds.*"))
