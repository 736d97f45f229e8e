"""Evaluations side by side."""

from pathlib import Path

import pytest
from saved_evaluation import FAIL, files, folder, marked, report
from scipy import stats

from robust_student.cli.main import main
from robust_student.report.evidence.evaluation import read_evaluation
from robust_student.report.evidence.side_by_side import compare


def test_models_are_paired_by_name_else_with_the_baseline(two: tuple[Path, Path]) -> None:
    comparison = report(*two, "--compare")
    attacked = {d["first"]["model"]: d for d in comparison["differences"] if d["perturbation"] == "autoattack_linf"}
    assert attacked["robust"]["second"] == {"evaluation": "first", "model": "robust"}
    assert attacked["other"]["second"] == {"evaluation": "first", "model": "kd"}
    difference = attacked["robust"]
    assert difference["value"] == pytest.approx((5 - 27) / 40) and difference["paired"] and difference["n"] == [40]
    assert difference["p"] == pytest.approx(stats.binomtest(0, 22, 0.5).pvalue)
    assert difference["comparisons"] == len(comparison["differences"]) and difference["holm_p"] >= difference["p"]
    assert difference["larger_than_uncertainty"] and difference["split"] == "test"
    assert difference["words"].startswith(
        "robust (second) is 55.0 points [40.0, 70.0] below robust (first) under AutoAttack"
    )


@pytest.mark.parametrize(("first", "second"), [("t", "other"), ("t", None), (None, None)])
def test_other_or_unknown_test_sets_are_compared_unpaired(
    tmp_path: Path, first: str | None, second: str | None
) -> None:
    folders = folder(tmp_path / "a", marked(files(), first)), folder(tmp_path / "b", marked(files(), second))
    pairs = compare({place.name: read_evaluation(place) for place in folders})
    assert pairs and not any(pair.difference.paired for pair in pairs)
    assert all(pair.difference.n == (40, 40) and pair.difference.test == "Fisher" for pair in pairs)
    main(["report", *map(str, folders), "--compare", "--format", "markdown"])
    assert "unpaired" in (tmp_path / "a" / "comparison.md").read_text()


def test_examples_are_paired_where_half_are_shared(tmp_path: Path) -> None:
    a, b, c = (marked(files({"kd": "kd"})) for _ in range(3))
    for content, least in ((b, 20), (c, 30)):
        for row in content["rows.jsonl"]:
            row["index"] += least
    pairs = compare({k: read_evaluation(folder(tmp_path / k, v)) for k, v in {"a": a, "b": b, "c": c}.items()})
    n = {pair.first[0]: pair.difference.n for pair in pairs}
    assert n == {"b": (20,), "c": (40, 40)}


def test_masking_and_other_suites_take_the_evidence_away(tmp_path: Path) -> None:
    other = marked(files(verdicts={"robust": FAIL}))
    other["evaluation.json"]["autoattack_suite"] = "standard"
    other["evaluation.json"]["provenance"]["settings"]["pgd_steps"] = 7
    folders = folder(tmp_path / "a", marked(files())), folder(tmp_path / "b", other)
    differences = {
        d["first"]["model"]: d for d in report(*folders, "--compare")["differences"] if "auto" in d["perturbation"]
    }
    assert "masking verdict of robust (b) FAIL" in differences["robust"]["words"]
    assert "AutoAttack suites standard and fast differ" in differences["kd"]["words"]
    assert "the weights are the same" in differences["kd"]["words"] and not differences["kd"]["larger_than_uncertainty"]
    main(["report", *map(str, folders), "--compare"])
    page = (folders[0] / "comparison.html").read_text()
    assert "The setting pgd_steps differs: a 50, b 7." in page and "FAIL" in page and "test split" in page


def test_figures_that_are_no_evidence_are_marked_side_by_side(tmp_path: Path) -> None:
    folders = folder(tmp_path / "a", marked(files())), folder(tmp_path / "b", marked(files(verdicts={"kd": FAIL})))
    main(["report", *map(str, folders), "--compare", "--format", "markdown"])
    table = (folders[0] / "comparison.md").read_text().split("## Accuracy")[1].split("## Masking")[0]
    (line,) = [line for line in table.splitlines() if "AutoAttack" in line]
    assert line.count("(FAIL)") == 1 and line.count("n = 40") == 6
    (clean,) = [line for line in table.splitlines() if line.startswith("| Clean")]
    assert "FAIL" not in clean


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
