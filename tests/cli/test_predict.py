"""The command predict."""

from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import refused, run
from PIL import Image
from sklearn.datasets import load_digits

from robust_student.cli import predict
from robust_student.models.run_directory import load, save


def predicted(capsys: pytest.CaptureFixture[str], *words: str | Path) -> tuple[list[list[str]], str]:
    """The fields of each line on standard output, and standard error."""
    capsys.readouterr()
    run("predict", *map(str, words))
    shown = capsys.readouterr()
    return [line.split("\t") for line in shown.out.splitlines()], shown.err


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve digits in folders, and files beside them that are no images."""
    root = tmp_path_factory.mktemp("digits")
    for k, image in enumerate(load_digits().images[:12]):
        folder = root / "ab"[k % 2] / "deep"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray((image * 255 / 16).astype(np.uint8)).save(folder / f"{k:02}.png")
    (root / "a" / "notes.txt").write_text("no image")
    (root / ".hidden").mkdir()
    Image.new("L", (8, 8)).save(root / ".hidden" / "x.png")
    return root


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


def test_a_folder_stands_for_all_images_in_it(
    teacher: Path, digits: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    single = digits / "b" / "deep" / "01.png"
    lines, _ = predicted(capsys, single, digits, "--model", teacher)
    expected = [single, *(digits / "ab"[k % 2] / "deep" / f"{k:02}.png" for k in (*range(0, 12, 2), *range(1, 12, 2)))]
    assert [line[0] for line in lines] == list(map(str, expected))
    assert lines[0] == lines[7]
    monkeypatch.setattr(predict, "_BATCH", 5)
    assert predicted(capsys, single, digits, "--model", teacher)[0] == lines


def test_the_likeliest_classes_come_first(teacher: Path, digits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (best, *_), (three, *_) = (
        predicted(capsys, digits, "--model", teacher, *words)[0] for words in ([], ["--top", "3"])
    )
    assert three[:3] == best[:3] and len(three) in (7, 8)
    values = [float(value) for value in three[2:7:2]]
    assert values == sorted(values, reverse=True)
    every, *_ = predicted(capsys, digits, "--model", teacher, "--top", "99")[0]
    assert sorted(every[1:21:2]) == list("0123456789")
    assert sum(float(value) for value in every[2:21:2]) == pytest.approx(1, abs=1e-3)


def test_images_unlike_the_training_set_are_said(
    teacher: Path, digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    card = load(teacher).card
    assert card.familiar is not None and card.familiar.examples == 140
    Image.new("L", (8, 8), 0).save(tmp_path / "black.png")
    black = tmp_path / "black.png"
    lines, error = predicted(capsys, digits, black, "--model", teacher)
    assert lines[-1][3:] == [predict.UNFAMILIAR]
    said = sum(line[3:] == [predict.UNFAMILIAR] for line in lines)
    assert said < 5 and all(len(line) == 3 or line[3:] == [predict.UNFAMILIAR] for line in lines)
    assert error == f"{said} of 13 images: unlike the training set (an estimate)\n"
    old = load(teacher)
    old.card = old.card.model_copy(update={"familiar": None})
    (tmp_path / "old").mkdir()
    save(old, tmp_path / "old")
    assert predicted(capsys, black, "--model", tmp_path / "old") == ([lines[-1][:3]], "")


def test_what_cannot_be_classified_is_refused(
    teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    assert "holds no images" in refused(capsys, "predict", tmp_path / "empty", "--model", teacher)
    assert "name at least one image file" in refused(capsys, "predict", "--model", teacher)
    assert "--top" in refused(capsys, "predict", tmp_path, "--model", teacher, "--top", "0")
