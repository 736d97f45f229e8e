"""The command line as a user runs it."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from command_line import LINEAR, TRAIN, bad_npz, refused, run
from PIL import Image

from robust_student.cli.main import COMMANDS, main
from robust_student.runtime.files import read_json
from robust_student.training.settings import FloorSettings


def test_the_program_runs_as_a_module_and_lists_its_commands() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "robust_student", "--help"], capture_output=True, text=True, check=True
    )
    assert all(name in done.stdout for name in COMMANDS)


@pytest.mark.parametrize("command", list(COMMANDS))
def test_help_states_every_setting(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        run(command, "--help")
    assert stop.value.code in (0, None)
    shown = capsys.readouterr().out
    flags = {
        name for name in COMMANDS[command].model_fields if name not in ("models", "images", "directories", "evaluation")
    }
    flags -= {"training", "objective", "certification", "teaching", "floor"}
    flags |= set(FloorSettings.model_fields) if command == "distill" else set()
    assert all(f"--{name.replace('_', '-')}" in shown for name in flags)


def test_from_folder_of_images_to_report_and_prediction(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, runs = f"folder:{photos}", tmp_path / "runs"
    common = ["--data", data, "--epochs", "2", "--batch-size", "8"]
    run("train", *common, "--model", "cnn:4", "--image-size", "12", "--output", str(runs / "teacher"))
    for name, method in (("kd", "kd"), ("robust", "secant")):
        taught = ["--teacher", str(runs / "teacher"), "--model", "mlp:8", "--method", method]
        run("distill", *common, *taught, "--output", str(runs / name))
    names = [str(runs / name) for name in ("teacher", "kd", "robust")]
    evaluation = tmp_path / "evaluation"
    run("evaluate", *names, "--data", data, "--output", str(evaluation), "--pgd-steps", "3", "--pgd-l2", "0.5")
    run("report", str(evaluation))
    assert "<html" in (evaluation / "report.html").read_text(encoding="utf-8")
    capsys.readouterr()
    run("predict", "--model", str(runs / "robust"), str(photos / "cat" / "1.png"), str(photos / "dog" / "2.png"))
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [line[0] for line in lines] == [str(photos / "cat" / "1.png"), str(photos / "dog" / "2.png")]
    assert all(line[1] in ("cat", "dog") and 0.5 <= float(line[2]) <= 1 for line in lines)
    models = {record["model"] for record in read_json(evaluation / "summary.json")}
    assert models == {"teacher", "kd", "robust"}


def test_bad_data_is_refused_with_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "single" / "cat").mkdir(parents=True)
    Image.new("L", (8, 8)).save(tmp_path / "single" / "cat" / "1.png")
    (tmp_path / "broken" / "cat").mkdir(parents=True)
    (tmp_path / "broken" / "dog").mkdir()
    Image.new("L", (8, 8)).save(tmp_path / "broken" / "cat" / "1.png")
    (tmp_path / "broken" / "dog" / "bad.png").write_bytes(b"not an image")
    pixels, labels = np.zeros((10, 4), np.float32), np.arange(10) % 2
    nan = pixels.copy()
    nan[3, 2] = np.nan
    cases = {
        f"folder:{tmp_path / 'missing'}": "no such folder",
        f"folder:{tmp_path / 'empty'}": "empty",
        f"folder:{tmp_path / 'single'}": "1 class",
        f"folder:{tmp_path / 'broken'}": "bad.png",
        f"mnist:{tmp_path / 'empty'}": "empty",
        "digit": "did you mean 'digits'",
        "mnist": "has no place",
    }
    for spec, reason in cases.items():
        words = ["train", "--data", spec, "--model", "linear", "--output", str(tmp_path / "out")]
        assert reason in refused(capsys, *words), spec
    for arrays, reason in (
        ({"x_train": nan, "y_train": labels}, "NaN"),
        ({"x_train": pixels, "y_train": labels * 0}, "class"),
        ({"x_train": pixels, "y_train": labels + 1, "classes": np.array(["a", "b"])}, "out of range"),
    ):
        words = ["train", "--data", bad_npz(tmp_path, **arrays), "--model", "linear", "--output", str(tmp_path / "out")]
        assert reason in refused(capsys, *words)
    assert not (tmp_path / "out").exists()


def test_bad_settings_are_refused_with_one_line(
    teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--output", str(tmp_path / "out")]
    distill = ["distill", "--teacher", str(teacher), "--data", "digits", "--model", "linear", *out]
    config = tmp_path / "config.yaml"
    config.write_text("objective: {secant: {wieght: 2}}")
    cases: list[tuple[list[str], str]] = [
        (["train", *LINEAR, *out, "--epochs", "0"], "greater than or equal to 1"),
        (["train", *TRAIN, *out, "--epoch", "3"], "--epochs"),
        (["train", "--data", "digits", "--model", "cnm", *out], "did you mean 'cnn'"),
        (["train", "--data", "digits", "--model", "cnn:0", *out], "positive whole numbers"),
        (["train", "--data", "digits", "--model", "nowhere.models:make", *out], "cannot import"),
        (["train", *LINEAR, *out, "--device", "cuda:77"], "cuda:77"),
        (["train", *TRAIN], "--output"),
        ([*distill, "--secant.weight", "-1"], "greater than or equal to 0"),
        ([*distill, "--method", "secand"], "did you mean 'secant'"),
        ([*distill, "--gradient.kind", "projection", "--gradient.weight", "1"], "needs norm = l2"),
        ([*distill, "--gradient-mode", "eval"], "secant.shared"),
        ([*distill, "--config", str(config)], "did you mean 'weight'"),
        ([*distill, "--config", str(tmp_path / "none.yaml")], "cannot read"),
        ([*distill, "--max-accuracy-drop", "1", "--method", "kd"], "no ball whose radius"),
        (["evaluate", "--data", "digits", *out], "at least one"),
        (["evaluate", str(teacher), str(teacher), "--data", "digits", *out], "two models are called"),
        (["evaluate", str(teacher), "--data", "digits", *out, "--baseline", "kd"], "baseline 'kd'"),
        (["evaluate", str(teacher), "--data", "digits", *out, "--corruptions.kinds", "snwo"], "did you mean 'snow'"),
        (
            ["evaluate", str(teacher), "--data", "digits", *out, "--corruptions.severities", "6"],
            "less than or equal to 5",
        ),
        (["report", str(tmp_path / "none")], "none"),
        (["predict", "--model", str(teacher), str(tmp_path / "none.png")], "no such file"),
        (["predict", "--model", str(tmp_path), str(tmp_path / "none.png")], "model.json"),
        (["distil"], "distill"),
    ]
    for words, reason in cases:
        assert reason in refused(capsys, *words), words
    assert not (tmp_path / "out").exists()


def test_nothing_existing_is_overwritten(teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path.name: path.read_bytes() for path in teacher.iterdir()}
    assert "exists already" in refused(capsys, "train", *TRAIN, "--output", teacher)
    words = ["--teacher", str(teacher), "--data", "digits", "--model", "linear", "--output", str(teacher)]
    assert "exists already" in refused(capsys, "distill", *words)
    assert {path.name: path.read_bytes() for path in teacher.iterdir()} == before
    blocked = tmp_path / "file"
    blocked.write_text("content")
    assert "not a directory" in refused(capsys, "train", *TRAIN, "--output", blocked)
    assert "cannot write" in refused(capsys, "train", *TRAIN, "--output", blocked / "below")


@pytest.mark.parametrize(("name", "more"), [("evaluate", True), ("certify", True), ("report", False)])
def test_ctrl_c_says_whether_the_same_command_goes_on(
    name: str, more: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("robust_student.cli.main.parse", interrupted)
    with pytest.raises(SystemExit) as stop:
        main([name])
    assert stop.value.code == 130
    assert ("the same command continues" in capsys.readouterr().err) == more
