"""The command distill: its search, and what must belong together."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from command_line import bad_npz, refused, run

from robust_student.models.run_directory import load
from robust_student.runtime.files import read_json
from robust_student.training.search import SearchFailed


def test_flags_win_over_the_file_and_the_file_over_the_method(teacher: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(
        yaml.safe_dump(
            {
                "method": "exact",
                "model": "linear",
                "training": {"epochs": 1, "seed": 3},
                "objective": {"gradient": {"weight": 0.5}},
            }
        )
    )
    words = ["--config", str(config), "--teacher", str(teacher), "--data", "digits", "--seed", "4"]
    run("distill", *words, "--output", str(tmp_path / "student"))
    settings = load(tmp_path / "student").card.provenance["settings"]
    assert settings["training"]["epochs"] == 1  # the file
    assert settings["training"]["seed"] == 4  # the flag
    assert settings["objective"]["gradient"]["weight"] == 0.5  # the file
    assert settings["objective"]["norm"] == "l2"  # the method
    assert settings["objective"]["gradient"]["score"] == "probability"  # the method


def test_a_search_prints_its_trade_off_and_trains_the_best(
    teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "student"
    words = ["--teacher", str(teacher), "--data", "digits", "--model", "linear", "--epochs", "2"]
    run("distill", *words, "--max-accuracy-drop", "100", "--tries", "2", "--output", str(output))
    shown = capsys.readouterr().out
    assert "chosen" in shown
    record = read_json(output / "search.json")
    assert len(record["tries"]) == 2
    chosen = record["tries"][record["chosen"]]
    assert load(output).card.provenance["settings"]["objective"]["radius"] == chosen["radius"]


def test_what_is_about_to_be_trained_is_said_first(
    teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["distill", "--teacher", str(teacher), "--data", "digits", "--epochs", "1"]
    run(*words, "--model", "linear", "--output", str(tmp_path / "small"))
    shown = capsys.readouterr().out.splitlines()
    beginnings = ["teacher", "student", "training", "objective"]
    assert [line.partition(":")[0] for line in shown[:4]] == beginnings
    assert "% right on validation" in shown[0]
    run(*words, "--model", "cnn:32", "--output", str(tmp_path / "large"))
    assert "WARNING: the student is not smaller than its teacher" in capsys.readouterr().out


def test_a_run_in_the_place_of_the_student_is_told_of(
    teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--teacher", "cnn:4", "--model", str(teacher), "--data", "digits", "--output", str(tmp_path / "out")]
    assert "are --teacher and --model swapped?" in refused(capsys, "distill", *words)
    words = ["--model", str(teacher), "--data", "digits", "--output", str(tmp_path / "out")]
    assert "holds a run, not a network to train" in refused(capsys, "train", *words)


def test_a_search_that_finds_nothing_shows_what_it_tried(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = {"clean": 0.5, "selection": 0.4}
    attempt = {"radius": 0.125, "weight": 5.0, "validation": figures, "accepted": False}
    record = {"baseline": {"clean": 0.9, "selection": 0.3}, "tries": [attempt], "chosen": None}

    def fail(*_: object, **__: object) -> None:
        raise SearchFailed("search: no try stays within 1 points", record)

    monkeypatch.setattr("robust_student.training.search.search", fail)
    words = ["distill", "--teacher", str(teacher), "--data", "digits", "--model", "linear"]
    with pytest.raises(SystemExit) as stop:
        run(*words, "--max-accuracy-drop", "1", "--tries", "2", "--output", str(tmp_path / "out"))
    shown, complaint = capsys.readouterr()
    assert stop.value.code == 2 and complaint == "robust-student: error: search: no try stays within 1 points\n"
    assert "0.125" in shown and "drops too much" in shown and "90.0" in shown


def test_teacher_student_and_data_must_belong_together(
    photos: Path, teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 255, (40, 8, 8)).astype(np.uint8), np.arange(40) % 4
    words = ["distill", "--teacher", str(teacher), "--model", "linear", "--output", str(tmp_path / "out"), "--data"]
    assert "10 classes" in refused(capsys, *words, bad_npz(tmp_path, x_train=images, y_train=labels))
    assert "shape" in refused(capsys, *words, bad_npz(tmp_path, x_train=images[:, :5], y_train=labels))
    assert "10 classes" in refused(capsys, *words, f"folder:{photos}")
