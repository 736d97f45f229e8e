"""The check-up as a whole: exit codes, flags, and what does not stop the rest."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from finding import levels_of

from robust_student.cli.main import main
from robust_student.core.errors import UserError
from robust_student.data.readers.load import Data, load_data
from robust_student.doctor import examine as examine_module
from robust_student.doctor.examine import examine
from robust_student.doctor.findings import Finding
from robust_student.models.settings import TeacherSettings
from robust_student.training.settings import TrainingSettings
from robust_student.training.train import train


def test_a_healthy_setting_ends_with_exit_code_0(
    run: Path, tmp_path: Path, quick: None, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "new" / "out"
    main(["doctor", "--data", "digits", "--teacher", str(run), "--device", "cpu", "--output", str(output)])
    shown = capsys.readouterr().out
    for area in ("packages", "devices", "arithmetic", "output", "teacher", "data"):
        assert f"\n{area}\n" in f"\n{shown}"
    assert "mlp:16: 1,210 parameters" in shown and "accuracy on validation" in shown
    assert shown.splitlines()[-1].startswith("0 problems, ")
    assert not output.parent.exists()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--data", "npz:nowhere.npz"], "problem data 'npz:nowhere.npz': cannot read it (no such file): "),
        (["--teacher", "nowhere"], "problem model nowhere: no file model.json there"),
        (["--teacher", "vgg.pt2"], "problem teacher 'vgg.pt2': only a run directory says what its inputs"),
        (["--device", "cuda:77"], "problem device 'cuda:77': "),
        (["--output", "/dev/null/out"], "problem output /dev/null/out: cannot write there"),
    ],
)
def test_a_problem_ends_with_exit_code_1_and_one_line(
    words: list[str], line: str, quick: None, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["doctor", *words])
    assert stop.value.code == 1
    shown, complaint = capsys.readouterr()
    assert len([text for text in shown.splitlines() if line in text]) == 1
    assert "\n1 problem, " in shown and not complaint


def test_an_output_inside_the_data_is_a_problem(tmp_path: Path, quick: None) -> None:
    (tmp_path / "photos").mkdir()
    findings = examine_module.examine(data=f"folder:{tmp_path / 'photos'}", output=tmp_path / "photos" / "out")
    texts = [finding.text for finding in findings if (finding.area, finding.level) == ("output", "problem")]
    assert len(texts) == 1 and "lies in the folder of the data" in texts[0]


def test_bad_usage_stays_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["doctor", "--date", "digits"])
    assert stop.value.code == 2 and "--data" in capsys.readouterr().err


def test_what_is_said_of_the_teacher_is_checked(run: Path, quick: None) -> None:
    """The flags are those of `distill`."""
    common: dict[str, Any] = {"data": "digits", "teacher": str(run)}
    assert levels_of(examine(**common), "accuracy on validation is") == ["fine"]
    high = TeacherSettings(teacher_accuracy=99.9)
    assert levels_of(examine(**common, teaching=high), "teacher accuracy on validation is") == ["problem"]
    unchecked = TeacherSettings(teacher_check=False)
    assert levels_of(examine(**common, teaching=unchecked), "accuracy on validation is") == []


def test_the_flags_of_the_teacher_reach_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """A network that knows nothing about inputs that are not normalised as in its training."""
    monkeypatch.chdir(tmp_path)
    teacher = train("linear", load_data("digits"), TrainingSettings(epochs=3)).model
    torch.save(teacher.network.state_dict(), "w.pt")
    code = "from torch import nn\ndef make():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
    (tmp_path / "own.py").write_text(code)
    words = ["doctor", "--data", "digits", "--teacher", "own.py:make@w.pt"]
    main([*words, "--teacher-mean", f"{float(teacher.mean)}", "--teacher-std", f"{float(teacher.std)}"])
    assert "0 problems" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main([*words, "--teacher-mean", "40", "--teacher-std", "0.025"])
    shown = capsys.readouterr().out
    assert "no better than chance" in shown
    assert "% with the mean and standard deviation of the training set" in shown and "--teacher-mean 0.30" in shown


def test_code_of_somebody_else_s_run_is_called_where_it_is_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: None
) -> None:
    (tmp_path / "theirs").mkdir()
    code = tmp_path / "theirs" / "own.py"
    code.write_text("from torch import nn\ndef make():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n")
    train(f"{code}:make", load_data("digits"), TrainingSettings(epochs=1), output=tmp_path / "run")
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path / "mine")
    assert levels_of(examine(teacher=str(tmp_path / "run")), "which does not run unasked") == ["problem"]
    assert levels_of(examine(teacher=str(tmp_path / "run"), trust=True), "650 parameters") == ["fine"]


def test_data_are_read_in_the_teacher_s_shape(tmp_path: Path, quick: None) -> None:
    """Image folders are resized to it; without the teacher they have a size of their own."""
    from PIL import Image

    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(12):
            pixels = np.random.default_rng(number).integers(0, 255, (9, 9, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{number}.png")
    photos = f"folder:{tmp_path / 'photos'}"
    train("linear", load_data(photos, image_size=5), output=tmp_path / "run")
    assert levels_of(examine(data=photos, teacher=str(tmp_path / "run")), "shape (3, 5, 5)") == ["fine"]
    assert levels_of(examine(data=photos), "shape (3, 9, 9)") == ["fine"]


def test_a_teacher_without_data_is_looked_at_without_its_accuracy(run: Path, quick: None) -> None:
    findings = examine(teacher=str(run))
    assert levels_of(findings, "its accuracy was not checked") == ["note"]
    assert levels_of(findings, "1,210 parameters") == ["fine"]


def test_a_problem_does_not_stop_the_rest(tmp_path: Path, run: Path, quick: None) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "model.json").write_text(json.dumps({}))
    findings = examine(data="digits", teacher=str(tmp_path / "bad"), device="cuda:77", output=tmp_path)
    assert [finding.area for finding in findings if finding.level == "problem"] == ["devices", "teacher"]
    assert levels_of(findings, "no faults found") == ["fine"]


def test_a_user_error_of_any_part_becomes_a_finding(monkeypatch: pytest.MonkeyPatch, quick: None) -> None:
    def refuse(spec: str, **more: Any) -> Data:
        raise UserError("data: all wrong; do it right")

    monkeypatch.setattr(examine_module, "load_data", refuse)
    assert Finding("data", "problem", "data: all wrong", "do it right") in examine(data="digits")
