"""The command predict."""

from pathlib import Path

import pytest
import torch
from command_line import run
from PIL import Image

from robust_student.models.run_directory import load, save


def test_nan_logits_are_said_to_be_no_answer(teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Finite weights so large that infinity is taken from infinity."""
    model = load(teacher)
    for parameter in model.parameters():
        torch.nn.init.constant_(parameter, 3e38)
    with torch.no_grad():
        list(model.parameters())[-2][:, 0] = -3e38
    (tmp_path / "huge").mkdir()
    save(model, tmp_path / "huge")
    Image.new("L", (8, 8), 100).save(tmp_path / "digit.png")
    run("predict", "--model", str(tmp_path / "huge"), str(tmp_path / "digit.png"))
    assert capsys.readouterr().out == f"{tmp_path / 'digit.png'}\tno answer (NaN)\tnan\n"
