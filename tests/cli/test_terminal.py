"""What the terminal shows."""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from command_line import TRAIN

from robust_student.cli.terminal import show, show_radii
from robust_student.evaluation.result import Certification, Evaluation, Record
from robust_student.results.rows import Row
from robust_student.runtime.files import append_jsonl


def test_output_is_plain_where_there_is_no_terminal(teacher: Path, tmp_path: Path) -> None:
    words = ["-m", "robust_student", "train", *TRAIN, "--output", str(tmp_path / "run")]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert "\x1b" not in done.stdout
    assert done.stdout.splitlines()[-1] == f"model: {tmp_path / 'run'}"
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 2
    card = json.loads((tmp_path / "run" / "model.json").read_text())
    assert card["provenance"]["seed"] == 0


NAMES = ("a-model-of-few-classes", "teacher")


def record(model: str, metric: str, kind: str, value: float, setting: float | None = None) -> Record:
    """A figure with an interval."""
    low, high = value - 0.01, value + 0.01
    return Record(model, "test", kind, setting, "linf", metric, value, low, high, "wilson", 400, 0, None)


def is_whole(shown: str, *cells: str) -> None:
    """Every line of the table fits into 80 columns, and every cell stands on one of them."""
    lines = [line for line in shown.splitlines() if "│" in line]
    assert max(map(len, lines)) <= 80 and "…" not in shown
    for cell in cells:
        assert any(cell in line for line in lines), cell


def save(
    folder: Path, answers: dict[str, list[int]], suite: str | None = "fast", labels: Sequence[int] = (0, 1)
) -> None:
    """What `evaluate` leaves beside the summary; the labels are 0, 1, 0, 1, ... where no others are given."""
    details: dict[str, Any] = {"sample": {"examples": 400, "test": 400, "attacked": 400}}
    details |= {"autoattack_suite": suite, "provenance": {"settings": {"pgd_steps": 50}}}
    details |= {"threat": {"norm": "linf", "radius": 0.1, "words": "linf 0.1, as given"}}
    (folder / "evaluation.json").write_text(json.dumps(details | {"skipped_certified": {}, "classes": ["no", "yes"]}))
    rows = [
        Row(name, "none", None, i, labels[i % len(labels)], answer, answer == labels[i % len(labels)])
        for name, given in answers.items()
        for i, answer in enumerate(given)
    ]
    append_jsonl(folder / "rows.jsonl", [asdict(row) for row in rows])


def test_one_class_for_everything_is_said_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path, {"kd": [0, 1] * 20, "robust": [1] * 40})
    records = [
        record(n, *rest) for n in ("kd", "robust") for rest in (("accuracy", "none", 0.5), ("parameters", "none", 5))
    ]
    show(Evaluation(tmp_path, tuple(records)), tmp_path / "summary.json")
    assert capsys.readouterr().out.splitlines()[0] == (
        "robust: one class for everything: the answer is 'yes' for 40 of 40 examples; "
        "figures under attack are no evidence of robustness"
    )


def test_pgd_is_shown_where_autoattack_was_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path, {"kd": [0, 1] * 20}, suite=None)
    measured: list[tuple[str, str, float, float | None]]
    measured = [("accuracy", "none", 0.9, None), ("parameters", "none", 5, None)]
    measured += [("accuracy", "pgd_linf", 0.7, 0.05), ("accuracy", "pgd_linf", 0.4, 0.1)]
    show(Evaluation(tmp_path, tuple(record("kd", *rest) for rest in measured)), tmp_path / "summary.json")
    shown = capsys.readouterr().out
    assert "PGD 50" in shown and "linf 0.1" in shown and "40.0 [39.0, 41.0]" in shown and "70.0" not in shown
    assert "n = 400 of 400 test examples, under attack 400" in shown
    assert "AutoAttack was not run" in shown and "attacked at linf 0.1, as given" in shown


def test_balanced_accuracy_stands_beside_accuracy_where_classes_are_unbalanced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    save(tmp_path, {"kd": [0, 0, 1] * 20}, labels=(0, 0, 1))
    places = [("none", None), ("autoattack_linf", 0.1)]
    records = [record("kd", "accuracy", kind, 0.8, at) for kind, at in places]
    records += [record("kd", "balanced_accuracy", kind, 0.6, at) for kind, at in places]
    show(Evaluation(tmp_path, (*records, record("kd", "parameters", "none", 5))), tmp_path / "summary.json")
    shown = capsys.readouterr().out
    is_whole(shown, "clean balanced", "AutoAttack fast linf 0.1 balanced", "60.0 [59.0, 61.0]")
    assert "balanced: the mean of the classes' accuracies" in shown


def test_names_and_figures_stand_whole_in_80_columns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    measured = [
        ("accuracy", "none", 0.9, None),
        ("accuracy", "gaussian_snr_db", 0.7, 0.0),
        ("parameters", "none", 5, None),
    ]
    records = [record(name, *rest) for name in NAMES for rest in (*measured, ("accuracy", "autoattack_linf", 0.5, 0.1))]
    save(tmp_path, {name: [0, 1, 0, 1] * 20 for name in NAMES})
    show(Evaluation(tmp_path, tuple(records)), tmp_path / "summary.json")
    is_whole(capsys.readouterr().out, *NAMES, "90.0 [89.0, 91.0]", "noise 0 dB", "AutoAttack fast linf 0.1", "not run")
    budgets, kind = (0.01, 0.02, 0.0314, 0.05), "decision_radius"
    records = [record(n, "certified_accuracy", f"certified_{kind}", 0.6, b) for n in NAMES for b in budgets]
    records += [record(n, "attack_accuracy", f"attack_{kind}", 0.8, b) for n in NAMES for b in budgets]
    (tmp_path / "certification.json").write_text(json.dumps({"threat": "linf 0.1, the default"}))
    show_radii(Certification(tmp_path, tuple(records)), tmp_path / "summary.json")
    is_whole(capsys.readouterr().out, *NAMES, "60.0 [59.0, 61.0]", "certified 0.0314", "stands 0.05", "violations")


def test_a_table_that_fits_has_a_line_for_each_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    records = [
        record(n, *rest, 0.1)
        for n in NAMES
        for rest in (
            ("certified_accuracy", "certified_decision_radius", 0.6),
            ("attack_accuracy", "attack_decision_radius", 0.6),
        )
    ]
    (tmp_path / "certification.json").write_text(json.dumps({"threat": "linf 0.1, the default"}))
    show_radii(Certification(tmp_path, tuple(records)), tmp_path / "summary.json")
    shown = capsys.readouterr().out.splitlines()
    assert any(NAMES[0] in line and line.count("60.0 [59.0, 61.0]") == 2 for line in shown)
