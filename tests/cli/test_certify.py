"""The command certify."""

import json
from pathlib import Path

import pytest
from command_line import refused, run

from robust_student.runtime.files import read_json


def test_certify_brackets_radii_goes_on_and_is_reported(
    teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "certificates"
    words = ["certify", f"student={teacher}", "--data", "digits", "--output", str(output), "--examples", "12"]
    words += ["--linear-examples", "6", "--budgets", "0.01", "0.03", "--attacks", "pgd-bisection"]
    run(*words)
    assert "0.01" in capsys.readouterr().out
    records = read_json(output / "summary.json")
    certified = [r["value"] for r in records if r["metric"] == "certified_accuracy"]
    assert certified and {r["setting"] for r in records if r["metric"] == "certified_accuracy"} == {0.01, 0.03}
    rows = [json.loads(line) for line in (output / "rows.jsonl").read_text().splitlines()]
    radii = {(row["perturbation"], row["index"]): row["value"] for row in rows}
    for (kind, index), value in radii.items():
        if kind == "certified_linear_decision_radius_linf":
            attack = radii["attack_decision_radius_linf", index]
            assert value is not None and (attack is None or value <= attack)
    assert "holds a finished run" in refused(capsys, *words)
    run("report", str(output))
    assert "certified" in (output / "report.html").read_text()
