"""The command attack."""

from pathlib import Path

import pytest
from command_line import refused, run
from PIL import Image


@pytest.fixture(scope="module")
def model(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was trained for an L2 radius of its own."""
    runs = tmp_path_factory.mktemp("runs")
    common = ["--data", f"folder:{photos}", "--epochs", "2", "--model", "cnn:4"]
    run("train", *common, "--output", str(runs / "teacher"))
    taught = ["--teacher", str(runs / "teacher"), "--norm", "l2", "--radius", "0.25"]
    run("distill", *common, *taught, "--output", str(runs / "student"))
    return runs / "student"


def attacked(capsys: pytest.CaptureFixture[str], *words: str | Path) -> list[str]:
    capsys.readouterr()
    run("attack", *map(str, words))
    return capsys.readouterr().out.splitlines()


def test_it_says_and_shows_what_the_attack_did(
    model: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files, output = [photos / "cat" / "1.png", photos / "dog" / "2.png"], tmp_path / "seen.png"
    lines = attacked(capsys, *files, "--model", model, "--output", output, "--device", "cpu")
    assert [line.split(": ")[0] for line in lines] == [*map(str, files), "attack"]
    assert all(": cat (" in line or ": dog (" in line for line in lines[:2])
    assert all("l2 0.25 (at most 0.25)" in line for line in lines[:2])
    assert all(("changed" in line) == (line.count("cat (") == 1) for line in lines[:2])
    with Image.open(output) as picture:
        assert picture.format == "PNG"


def test_options_change_what_is_done(
    model: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = photos / "cat" / "1.png"
    common: list[str | Path] = ["--model", model, "--overwrite"]
    assert (
        "linf 0.0314 (8/255) (at most 0.0314 (8/255))"
        in attacked(capsys, file, *common, "--norm", "linf", "--radius", "8/255")[0]
    )
    smallest = attacked(capsys, file, *common, "--smallest")[0]
    assert "changed, l2 " in smallest and smallest.endswith("(smallest found)")
    assert (tmp_path / "attack.png").is_file()


def test_a_folder_stands_for_its_images(
    model: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "few").mkdir()
    for name in ("2.png", "1.png"):
        (tmp_path / "few" / name).write_bytes((photos / "cat" / name).read_bytes())
    lines = attacked(capsys, tmp_path / "few", "--model", model, "--output", tmp_path / "a.png")
    assert [line.split(": ")[0] for line in lines[:-1]] == [str(tmp_path / "few" / name) for name in ("1.png", "2.png")]


def test_what_cannot_be_done_is_refused(
    model: Path, photos: Path, tmp_path: Path, teacher: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, there = photos / "cat" / "1.png", tmp_path / "a.png"
    there.touch()
    common: list[str | Path] = [file, "--model", model, "--output"]
    assert "pass --overwrite" in refused(capsys, "attack", *common, there)
    assert "give it the suffix .png" in refused(capsys, "attack", *common, tmp_path / "a.jpg")
    assert "no folder" in refused(capsys, "attack", *common, tmp_path / "b" / "a.png")
    (tmp_path / "c.png").mkdir()
    assert "it is a folder" in refused(capsys, "attack", *common, tmp_path / "c.png")
    words: list[str | Path] = ["attack", *common, tmp_path / "d.png"]
    assert "drop --radius" in refused(capsys, *words, "--smallest", "--radius", "0.1")
    assert "more than any change" in refused(capsys, *words, "--radius", "1e6")
    assert "name one to 50 images (got 0)" in refused(capsys, "attack", *words[2:])
    (tmp_path / "empty").mkdir()
    assert "holds no images" in refused(capsys, "attack", tmp_path / "empty", *words[2:])
    many = [file] * 51
    assert "got 51" in refused(capsys, "attack", *many, *words[2:])
    assert not (tmp_path / "d.png").exists()
