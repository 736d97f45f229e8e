"""The report of certificates: what is proved and what is not stay apart, and every number is that of the rows."""

import os
import re
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from parsed_page import Page
from saved_certificates import ALONE, BUDGETS, METHODS, SLOW, STRENGTH, N, Tables, files, html, numbers, radius, without
from saved_evaluation import save

from robust_student.core.errors import UserError
from robust_student.report.evidence.certificates import read_certificates
from robust_student.report.write import write_report
from robust_student.results.intervals import wilson
from robust_student.results.records import find
from robust_student.results.rows import Row


def test_same_files_same_bytes(tmp_path: Path) -> None:
    first = html(tmp_path, files())
    assert html(tmp_path, files()) == first
    call = "import sys, pathlib as p, robust_student.report.write as r; r.write_report(*map(p.Path, sys.argv[1:]))"
    other = tmp_path / "other.html"
    environment = os.environ | {"PYTHONHASHSEED": "1"}
    subprocess.run([sys.executable, "-c", call, str(tmp_path), str(other)], check=True, env=environment)
    assert other.read_text() == first


def test_medians_and_shares_are_the_records(tmp_path: Path) -> None:
    content = files()
    records, page = content["summary.json"], Tables(html(tmp_path, content))
    kinds = ["estimated", "sampled", *(f"certified_{method}" for method in METHODS), "certified", "attack"]
    table = page.table("bounds")
    for kind, line in zip(kinds, table, strict=False):
        medians = [find(records, name, f"median_{kind}_decision_radius") for name in STRENGTH]
        assert line == [numbers(of[0]) if of else [] for of in medians]
    assert table[len(kinds)] == [[0.0], [0.0], [0.0]]  # violations
    shares = table[len(kinds) + 1 :]
    for budget in BUDGETS:
        for kind in kinds[2:]:
            metric = "attack_accuracy" if kind == "attack" else "certified_accuracy"
            records_by_model = [find(records, name, metric, f"{kind}_decision_radius") for name in STRENGTH]
            here = [[record for record in of if record["setting"] == budget] for of in records_by_model]
            assert shares.pop(0) == [numbers(of[0]) if of else [] for of in here]
    for kind in kinds:
        ratios = [find(records, name, f"median_{kind}_decision_radius_over_kd") for name in ("teacher", "robust")]
        assert shares.pop(0) == [numbers(of[0]) if of else [] for of in ratios]
    assert not shares


def test_summary_brackets_the_truth_on_the_same_examples(tmp_path: Path) -> None:
    content = files()
    page = Tables(html(tmp_path, content))
    table = page.table("certificates")
    assert len(table) == 3
    for model, cells in zip(STRENGTH, table, strict=True):
        assert cells[0] == numbers(find(content["summary.json"], model, "accuracy")[0])
        best = max(share for name, share in METHODS.items() if (model, name) != ("teacher", "linear"))
        for budget, cell in zip(BUDGETS, cells[1:], strict=True):
            proved = wilson(
                sum(k > 1 and 0.8 * best * radius(model, "sampled", k) / 0.9 >= budget for k in range(SLOW)), SLOW
            )
            stands = wilson(sum(radius(model, "attack", k) > budget for k in range(SLOW)), SLOW)
            assert cell == [proved.value, stands.value, proved.low, stands.high]
            assert proved.value <= stands.value
    sentence = page.words("proved")
    assert sentence.startswith(
        "It is proved that no perturbation of L∞ size up to 0.1 changes the right decision of robust on"
    )
    assert "0 sandwich violations in 120 comparisons" in page.words("violations")


def test_curves_meet_the_records_at_the_budgets(tmp_path: Path) -> None:
    content = files()
    view = read_certificates(save(tmp_path, content))
    for meaning, noun in (("decision", "accuracy"), ("confidence", "confidence")):
        for budget in BUDGETS:
            sides = view.between("robust", meaning, budget)
            for side, share in zip(("certified", "attack"), sides, strict=True):
                recorded = find(content["summary.json"], "robust", f"{side}_{noun}", f"{side}_{meaning}_radius")
                there = next(record for record in recorded if record["setting"] == budget)
                assert share is not None and (*share[:3], share.n) == (*numbers(there), there["n"])
    grid = view.grid("decision")
    assert set(BUDGETS) < set(grid) and grid[0] == 0.0 and grid == sorted(grid)


def test_confidence_and_agreement(tmp_path: Path) -> None:
    content = files()
    page = Tables(html(tmp_path, content))
    positive = sum(k % 3 > 0 and radius("kd", "estimated", k) > 0 for k in range(N))
    assert page.table("confidence")[0][0] == list(wilson(positive, N))
    assert "teacher itself is left out" in page.words("confidence")
    table = page.table("agreement")
    for budget in BUDGETS:
        best = {
            m: [k > 1 and 0.8 * f * radius(m, "sampled", k) / 0.9 for k in range(SLOW)]
            for m, f in (("teacher", 0.75), ("kd", 0.9), ("robust", 0.9))
        }
        both = [
            sum(min(own, its) >= budget for own, its in zip(best[m], best["teacher"], strict=True))
            for m in ("kd", "robust")
        ]
        assert table.pop(0) == [list(wilson(count, SLOW)) for count in both]
        records_by_model = [find(content["summary.json"], m, "agreement", "agreement_linf") for m in ("kd", "robust")]
        assert table.pop(0) == [numbers(next(r for r in of if r["setting"] == budget)) for of in records_by_model]


def test_smoothed_classifier_stands_apart(tmp_path: Path) -> None:
    content = files(norm="l2", smoothed=True)
    page = Tables(html(tmp_path, content))
    words = page.words("smoothed")
    assert "Another classifier" in words and "1 − α = 99.9 %" in words and "deviation 0.25" in words
    right, abstains, median, *shares = page.table("smoothed")[0]
    assert right == list(wilson(4, 10)) and abstains == list(wilson(3, 10))
    records = content["summary.json"]
    assert median == numbers(find(records, "teacher", "median_certified_smoothed_radius")[0])
    assert shares == [numbers(r) for r in find(records, "teacher", "certified_accuracy", "certified_smoothed_radius")]
    assert "smoothed" not in page.words("bounds")


def test_a_violation_is_an_alarm(tmp_path: Path) -> None:
    def broken(row: Row) -> Row:
        is_spoiled = row.perturbation.startswith("attack_decision") and row.index == 3 and row.model == "kd"
        return Row(**asdict(row) | {"value": 0.001}) if is_spoiled else row

    page = Tables(html(tmp_path, files(change=broken)))
    words = page.words("certificates")
    assert (
        "✕ 1 sandwich violation in 120 comparisons" in words and "no certificate on this page may be believed" in words
    )
    assert "violations" not in page.text
    assert page.table("bounds")[8] == [[0.0], [1.0], [0.0]]


@pytest.mark.parametrize(
    ("section", "words", "arguments"),
    [
        ("violations", "neither was checked by the other", {"change": without("attack_")}),
        ("certificates", "at least", {"change": without("attack_")}),
        ("certificates", "at most", {"change": without("certified_")}),
        ("proved", "No example of any model is certified at any of the budgets", {"change": without("certified_")}),
        ("standing", "Nothing was certified or attacked", {"change": without("certified_", "attack_")}),
        ("sandwich", "Neither certified nor attacked", {"change": without("certified_", "attack_")}),
        ("agreement", "not measured", {"change": without("agreement_")}),
        ("bounds", "certified: best", {"change": without("estimated_", "sampled_")}),
        ("agreement", "no model is called teacher", {"names": ALONE}),
        ("agreement", "there is no student beside the teacher", {"names": {"teacher": "teacher"}}),
        ("proved", "right decision of kd on", {"names": ALONE}),
        ("bounds", "Median decision radius", {"baseline": None}),
    ],
)
def test_gaps_are_said_in_words(tmp_path: Path, section: str, words: str, arguments: dict[str, Any]) -> None:
    page = Page(html(tmp_path, files(**arguments)))
    assert words in page.words(section)
    assert not re.search(r"\bnan\b", " ".join(page.text.values()))


def test_sections_that_have_nothing_to_say_are_left_out(tmp_path: Path) -> None:
    text = html(tmp_path, files(ALONE))
    assert not {'id="confidence"', 'id="standing"', 'id="smoothed"'} & set(re.findall(r'id="\w+"', text))
    assert "Ratio of medians" not in html(tmp_path, files(baseline=None))


def test_names_from_users_are_only_text(tmp_path: Path) -> None:
    hostile = '"><img src=x onerror="alert(1)"><script>alert(2)</script>$\\frac{'
    content = files({"teacher": "_x$y$", "kd": "kd", "robust": hostile}, norm="l2", smoothed=True)
    content["certification.json"]["provenance"]["data"] = hostile
    content["certification.json"]["fingerprint"]["settings"]["attacks"] = [hostile]
    page = Page(html(tmp_path, content))
    assert not {"script", "img"} & set(page.tags)
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    for section in ("certificates", "standing", "sandwich", "bounds", "smoothed", "confidence", "agreement"):
        assert hostile in page.text[section]


@pytest.mark.parametrize("name", ["summary.json", "rows.jsonl"])
def test_missing_files_are_named(tmp_path: Path, name: str) -> None:
    save(tmp_path, files())
    (tmp_path / name).unlink()
    with pytest.raises(UserError, match=name) as error:
        write_report(tmp_path, tmp_path / "report.html")
    assert "\n" not in str(error.value) and not (tmp_path / "report.html").exists()


@pytest.mark.parametrize(("details", "command"), [("certification.json", "certify"), ("evaluation.json", "evaluate")])
def test_unfinished_directories_say_what_to_do(tmp_path: Path, details: str, command: str) -> None:
    (tmp_path / details).write_text('{"fingerprint": {}, "provenance": {}}')
    with pytest.raises(UserError, match=f"unfinished .*run the same {command} command again"):
        write_report(tmp_path, tmp_path / "report.html")


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("summary.json", "{", "not valid JSON"),
        ("summary.json", '[{"model": "kd"}]', "'0.schema': field required"),
        ("certification.json", '{"fingerprint": {}, "provenance": {}}', "unfinished, damaged"),
        ("rows.jsonl", "nonsense\nnonsense\n", "line 1 is not valid JSON"),
        ("rows.jsonl", '{"perturbation": "none"}\n', "'0.model': field required"),
        ("rows.jsonl", "", "not the rows that summary.json was made from"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, name: str, text: str, words: str) -> None:
    (save(tmp_path, files()) / name).write_text(text)
    with pytest.raises(UserError, match=re.escape(words)) as error:
        write_report(tmp_path, tmp_path / "report.html")
    assert name in str(error.value) and "\n" not in str(error.value)
