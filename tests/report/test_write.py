"""The report as a file: the same bytes every time, and the same numbers in every format."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from parsed_page import Page
from saved_evaluation import files, html, save, written

from robust_student.cli.main import main
from robust_student.core.errors import UserError
from robust_student.report.write import write_report


def test_same_files_same_bytes(tmp_path: Path) -> None:
    first = html(tmp_path, files())
    assert html(tmp_path, files()) == first
    call = "import sys, pathlib as p, robust_student.report.write as r; r.write_report(*map(p.Path, sys.argv[1:]))"
    other = tmp_path / "other.html"
    environment = os.environ | {"PYTHONHASHSEED": "1"}
    subprocess.run([sys.executable, "-c", call, str(tmp_path), str(other)], check=True, env=environment)
    assert other.read_text() == first


def test_json_has_everything_that_the_evaluation_recorded(tmp_path: Path) -> None:
    content = files()
    more = {"skipped_certified": {"kd": 3}, "corruptions": {"source": "generated"}, "later": [1]}
    marks = {"fingerprint": {"models": {"kd": "x"}, "test": "y", "corruption_set": "z"}}
    content["evaluation.json"] |= more | marks
    write_report(save(tmp_path, content), tmp_path / "report.json", style="json")
    shown = json.loads((tmp_path / "report.json").read_text())
    assert {name: shown[name] for name in content["evaluation.json"]} == content["evaluation.json"]


def test_output_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot write there"):
        write_report(save(tmp_path, files()), tmp_path / "missing" / "report.html")


def test_every_format_has_the_same_numbers(tmp_path: Path) -> None:
    content = files()
    save(tmp_path, content)
    shown = json.loads(written(tmp_path, "json"))
    assert shown["records"] == content["summary.json"] and shown["kind"] == "evaluation" and shown["split"] == "test"
    page, text = Page(written(tmp_path, "html")), written(tmp_path, "md")
    listed = {float(value) for tag, name, value in page.attributes if (tag, name) == ("data", "value")}
    numbers = {float(number) for number in re.findall(r"-?\d+\.?\d*(?:e-?\d+)?", json.dumps(shown))}
    assert listed and listed <= numbers
    for difference in shown["differences"]:
        if (difference["perturbation"], difference["setting"]) in [("none", None), ("autoattack_linf", 0.1)]:
            assert f"- {difference['words']}." in text and difference["words"] in page.words("words")
    for record in content["summary.json"]:
        if record["metric"] in ("accuracy", "worst_class_accuracy") and record["perturbation"] == "autoattack_linf":
            low, high = 100 * record["low"], 100 * record["high"]
            assert f"{100 * record['value']:.1f} % [{low:.1f}, {high:.1f}] n = {record['n']}" in text
    assert "on the test split" in text


def test_a_difference_that_is_not_shown_is_not_called_the_same(tmp_path: Path) -> None:
    save(tmp_path, files())
    outcomes = {
        (difference["perturbation"], difference["setting"]): difference["outcome"]
        for difference in json.loads(written(tmp_path, "json"))["differences"]
        if difference["model"] == "robust"
    }
    assert outcomes["none", None] == "not shown" and outcomes["autoattack_linf", 0.1] == "better"
    row = next(line for line in written(tmp_path, "md").splitlines() if line.startswith("| Clean") and " p = " in line)
    assert row.count("○ not shown") == 2 and "same" not in row
    page = written(tmp_path, "html")
    assert '<span class="sign">○ not shown</span>' in page and '<span class="sign better">▲ better</span>' in page


def test_the_format_is_the_option_s_else_the_suffix_s(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path, files())
    assert written(tmp_path, "md").startswith("# Robustness report") and written(tmp_path, "json").startswith("{")
    assert written(tmp_path, "txt", "--format", "markdown") == written(tmp_path, "md")
    assert written(tmp_path, "json", "--format", "html").startswith("<!DOCTYPE html>")
    main(["report", str(tmp_path), "--format", "json"])
    assert (tmp_path / "report.json").exists()
    capsys.readouterr()
    for words, reason in (
        ([str(tmp_path), "--output", str(tmp_path / "a.pdf")], "none of .html, .md and .json"),
        ([str(tmp_path), "--output", str(tmp_path / "out.md")], "exists already"),
        ([str(tmp_path), str(tmp_path)], "pass --compare or --seeds"),
        ([], "at least one directory"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(["report", *words])
        assert stop.value.code == 2 and reason in capsys.readouterr().err
