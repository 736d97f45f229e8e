"""Files are named, and what was done to their size is said."""

from pathlib import Path

import numpy as np
import pytest
from finding import levels_of
from PIL import Image

from robust_student.doctor import image_files
from robust_student.doctor.examine import examine
from robust_student.doctor.findings import Finding
from robust_student.doctor.image_files import ImageFiles, check_sizes


def picture(path: Path, number: int, size: tuple[int, int] = (100, 100)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 255, size).astype(np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A copy, a contradiction and a leak among small photographs of two classes, already divided."""
    for part, start in (("train", 0), ("test", 1000)):
        for k, name in enumerate(("cat", "dog")):
            for number in range(15):
                picture(tmp_path / part / name / f"{number:02}.png", start + 100 * k + number)
    picture(tmp_path / "train" / "cat" / "z copy.png", 3)
    picture(tmp_path / "train" / "dog" / "zz.png", 4)
    picture(tmp_path / "test" / "dog" / "zz.png", 105)
    return tmp_path


def data_findings(photos: Path) -> list[Finding]:
    return [finding for finding in examine(data=f"folder:{photos}") if finding.area == "data"]


def test_copies_contradictions_and_leaks_are_named_by_their_files(photos: Path, quick: None) -> None:
    texts = [finding.text for finding in data_findings(photos)]
    (copies,) = [text for text in texts if "are copies" in text]
    assert copies.endswith(": 'train/cat/03.png' = 'train/cat/z copy.png'; 'train/cat/04.png' = 'train/dog/zz.png'")
    (contradiction,) = [text for text in texts if "with different labels" in text]
    assert contradiction.endswith("labels: 'train/cat/04.png' = 'train/dog/zz.png'")
    (leak,) = [text for text in texts if "are also training" in text]
    assert leak.endswith(": 'test/dog/zz.png' = 'train/dog/05.png'")


def test_files_of_a_folder_without_parts_are_named_after_they_are_divided(tmp_path: Path, quick: None) -> None:
    for number in range(40):
        picture(tmp_path / "cat" / f"{number}.png", number)
        picture(tmp_path / "dog" / f"{number}.png", 100 + min(number, 38))
    texts = [finding.text for finding in data_findings(tmp_path) if "'dog/38.png'" in finding.text]
    assert len(texts) == 1 and "'dog/39.png'" in texts[0]


def test_what_became_of_the_size_is_said(photos: Path, quick: None) -> None:
    findings = data_findings(photos)
    assert levels_of(findings, "images of 100x100 pixels became 32x32") == ["note"]
    (fix,) = [finding.fix for finding in findings if "pixels became" in finding.text]
    assert fix.startswith("train --image-size N")


@pytest.mark.parametrize(
    ("sizes", "shape", "expected", "level", "text"),
    [
        ([(9, 12)], (1, 9, 12), False, "fine", "images are 12x9 pixels and keep that size"),
        ([(40, 40)], (1, 32, 32), False, "fine", "images of 40x40 pixels became 32x32"),
        ([(40, 40), (90, 80)], (1, 32, 32), False, "note", "images of 40x40 to 80x90 pixels became 32x32"),
        ([(90, 80)], (1, 32, 32), True, "fine", "images of 80x90 pixels became 32x32, as the teacher expects"),
    ],
)
def test_a_great_loss_is_a_note_unless_the_teacher_wants_it(
    sizes: list[tuple[int, int]], shape: tuple[int, ...], expected: bool, level: str, text: str, tmp_path: Path
) -> None:
    for number in range(10):
        for name in ("cat", "dog"):
            picture(tmp_path / name / f"{number}.png", number, sizes[number % len(sizes)])
    files = ImageFiles.of(f"folder:{tmp_path}")
    assert files is not None
    finding = check_sizes(files, shape, expected=expected)
    assert (finding.level, finding.text) == (level, text)


def test_of_many_files_some_are_looked_at(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_files, "_LOOKED_AT", 10)
    files = ImageFiles.of(f"folder:{photos}")
    assert files is not None
    assert check_sizes(files, (1, 32, 32), expected=False).text.endswith("became 32x32 (of 10 files looked at)")


def test_other_sources_have_no_files() -> None:
    assert ImageFiles.of("digits") is None and ImageFiles.of("npz:a.npz") is None
