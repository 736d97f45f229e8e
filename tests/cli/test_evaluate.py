"""The command evaluate: corruptions, published sets, suites."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from command_line import refused, run

from robust_student.cli.arguments import parse
from robust_student.cli.evaluate import Evaluate
from robust_student.cli.main import COMMANDS
from robust_student.data.readers.load import load_data
from robust_student.evaluation.settings import SUITES, EvaluationSettings
from robust_student.runtime.files import read_json


def test_corruptions_and_noises_are_asked_for_by_flag_and_change_the_result(teacher: Path, tmp_path: Path) -> None:
    few = ["--examples", "30", "--attack-examples", "10", "--pgd-steps", "1", "--autoattack", "none"]

    def values_of(name: str, *flags: str) -> dict[tuple[str, float | None], float]:
        run("evaluate", str(teacher), "--data", "digits", "--output", str(tmp_path / name), *few, *flags)
        records = read_json(tmp_path / name / "summary.json")
        accuracies = [r for r in records if r["metric"] in ("accuracy", "mean_corruption_accuracy")]
        return {(r["perturbation"], r["setting"]): r["value"] for r in accuracies}

    plain = values_of("plain")
    assert not [key for key in plain if "corruption" in key[0] or key[0] == "impulse_snr_db"]
    every = values_of("all", "--corruptions.kinds", "all")
    assert len([key for key in every if key[0].startswith("corruption_")]) == 75
    some = values_of(
        *("some", "--corruptions.kinds", "rotate", "contrast", "--corruptions.severities", "3", "5"),
        *("--corruptions.examples", "20", "--noises", "gaussian", "impulse"),
    )
    cells = [key for key in some if key[0].startswith("corruption_")]
    assert cells == [(f"corruption_{kind}", float(s)) for kind in ("rotate", "contrast") for s in (3, 5)]
    assert some["corruptions", None] != every["corruptions", None]
    assert ("impulse_snr_db", 0.0) in some


def test_a_published_set_is_named_by_flag(teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    test = load_data("digits").test
    black = np.zeros((5 * len(test), 8, 8, 1), np.uint8)
    np.save(tmp_path / "soot.npy", black)
    np.save(tmp_path / "labels.npy", test.labels.numpy())
    words = ["evaluate", str(teacher), "--data", "digits", "--output", str(tmp_path / "out"), "--pgd-steps", "1"]
    words += ["--attack-examples", "10", "--autoattack", "none", "--corruptions.set", str(tmp_path)]
    assert "no file gaussian_noise.npy" in refused(capsys, *words)
    run(*words, "--corruptions.kinds", "soot", "--corruptions.severities", "5")
    records = read_json(tmp_path / "out" / "summary.json")
    (record,) = [r for r in records if (r["perturbation"], r["metric"]) == ("corruption_soot", "accuracy")]
    assert record["value"] == pytest.approx(0.1, abs=0.02) and record["n"] == 400


def test_evaluate_prints_the_suite_the_sample_and_what_autoattack_was_spared(
    teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    words = ["evaluate", f"t={teacher}", "--data", "digits", "--output", str(tmp_path / "out"), "--pgd-steps", "1"]
    words += ["--examples", "50", "--attack-examples", "20", "--autoattack-radius", "0.001", "--skip-certified"]
    run(*words, "--masking.steps", "1", "--snr-db", "0")
    shown = capsys.readouterr().out
    assert "AutoAttack screening" in shown and "n = 50 of 400 test examples, under attack 20" in shown
    rows = [json.loads(line) for line in (tmp_path / "out" / "rows.jsonl").read_text().splitlines()]
    spared = sum(row["detail"] == "certified" for row in rows)
    assert spared > 0 and f"certified by interval bounds, so not attacked by AutoAttack: t {spared}" in shown


def suite_of(tmp_path: Path, *words: str) -> EvaluationSettings:
    """The settings that the words ask for."""
    command = parse(["evaluate", "model", "--data", "digits", "--output", str(tmp_path / "out"), *words], COMMANDS)
    assert isinstance(command, Evaluate)
    return command.evaluation


def test_a_suite_is_a_starting_point_that_flags_and_files_change(tmp_path: Path) -> None:
    assert suite_of(tmp_path) == EvaluationSettings()
    for name, settings in SUITES.items():
        assert suite_of(tmp_path, "--suite", name) == settings
    full = suite_of(tmp_path, "--suite", "full", "--attack-examples", "7", "--corruptions.severities", "2")
    assert full.autoattack == "standard" and full.attack_examples == 7
    assert full.every_budget and full.masking.examples == 200
    assert full.corruptions.kinds == ("all",) and full.corruptions.severities == (2,)
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({"suite": "full", "evaluation": {"corruptions": {"examples": 9}, "seed": 3}}))
    read = suite_of(tmp_path, "--config", str(config), "--seed", "4")
    assert (read.corruptions.examples, read.seed, read.autoattack) == (9, 4, "standard")


def test_the_full_suite_attacks_and_corrupts(teacher: Path, tmp_path: Path) -> None:
    small = ["--examples", "30", "--attack-examples", "4", "--corruptions.examples", "6", "--snr-db", "0"]
    output = tmp_path / "out"
    run("evaluate", str(teacher), "--data", "digits", "--suite", "full", "--output", str(output), *small)
    records = read_json(output / "summary.json")
    kinds = {r["perturbation"] for r in records if r["perturbation"].startswith("corruption_")}
    assert len(kinds) == 15 and "mean_corruption_accuracy" in {r["metric"] for r in records}
    assert read_json(output / "evaluation.json")["autoattack_suite"] == "standard"
    rows = [json.loads(line) for line in (output / "rows.jsonl").read_text().splitlines()]
    checks = {row["perturbation"] for row in rows if row["perturbation"].startswith("masking_")}
    assert not checks & {"masking_square", "masking_budgets_linf", "masking_budgets_l2"}


def test_an_unknown_suite_is_refused(teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["evaluate", str(teacher), "--data", "digits", "--output", str(tmp_path / "out"), "--suite", "ful"]
    assert "unknown suite 'ful'; did you mean 'full'?" in refused(capsys, *words)
