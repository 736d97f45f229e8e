"""A single image is read as those of a folder are."""

from pathlib import Path

import numpy as np
import pytest
import torch
from data_sources import fill, only_value, save_image
from PIL import Image

from robust_student.core.errors import UserError
from robust_student.data.readers.load import load_data, read_image


def test_the_orientation_a_camera_noted_is_applied(tmp_path: Path) -> None:
    fill(tmp_path, side=8)
    upside_down = np.zeros((8, 8), np.uint8)
    upside_down[:4] = 255
    exif = Image.Exif()
    exif[0x0112] = 3  # rotated by 180 degrees
    save_image(tmp_path / "turned.png", upside_down, exif=exif)
    image = read_image(tmp_path / "turned.png", (1, 8, 8))
    assert image[0, :4].eq(0).all() and image[0, 4:].eq(1).all()


def test_one_image_is_read_as_the_folder_reader_does(tmp_path: Path) -> None:
    data = load_data(f"folder:{fill(tmp_path, colour=True)}", shape=(3, 9, 9))
    image = read_image(tmp_path / "dog" / "4.png", (3, 9, 9))
    assert image.shape == (3, 9, 9) and only_value((255 * image).round()) == 24
    everyone = torch.cat([data.training_examples.floats(), data.test.floats()])
    assert any(torch.equal(image, other) for other in everyone)


def test_a_single_image_that_is_missing_or_unwanted_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone.png: cannot read it \(no such file\)"):
        read_image(tmp_path / "gone.png", (1, 8, 8))
    with pytest.raises(UserError, match="expects inputs of shape"):
        read_image(tmp_path / "gone.png", (64,))
