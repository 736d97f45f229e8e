"""The command train."""

from pathlib import Path

import pytest
from command_line import run

from robust_student.core.tensors import Shape
from robust_student.models.run_directory import load


@pytest.mark.parametrize(("flags", "shape"), [(["9"], (3, 9, 9)), (["8", "10"], (3, 8, 10))])
def test_image_size_is_a_side_or_height_and_width(flags: list[str], shape: Shape, photos: Path, tmp_path: Path) -> None:
    words = ["train", "--data", f"folder:{photos}", "--model", "linear", "--epochs", "1", "--image-size", *flags]
    run(*words, "--output", str(tmp_path / "model"))
    assert load(tmp_path / "model").card.input_shape == shape
