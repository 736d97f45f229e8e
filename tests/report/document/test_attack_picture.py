"""The picture of attacked images."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from robust_student.report.document.attack_picture import AttackedImage, attack_picture


def row(channels: int = 3, *, moved: bool = True, name: str = "a.png", before: str = "cat (99.0 %)") -> AttackedImage:
    before_image = torch.full((channels, 4, 5), 0.25)
    after_image = before_image.clone()
    after_image[0, :2] += 0.05 * moved
    images = torch.stack([before_image, after_image])
    return AttackedImage(name, images, before, "dog (60.0 %)", changed=moved, size="linf 0.05")


def shows(picture: bytes, *colour: int) -> bool:
    """Whether a hundredth of the picture has this colour, up to rounding."""
    pixels = np.asarray(Image.open(io.BytesIO(picture)).convert("RGB")).reshape(-1, 3).astype(int)
    return bool((np.abs(pixels - colour).max(axis=1) <= 1).mean() > 0.01)


def test_it_shows_before_after_and_the_change_magnified_around_grey() -> None:
    drawn = attack_picture([row()], "title")
    assert shows(drawn, 64, 64, 64) and shows(drawn, 76, 64, 64)  # 0.25 and 0.30
    assert shows(drawn, 255, 127, 127) and shows(drawn, 127, 127, 127)


def test_grey_images_and_no_change_at_all_are_drawn() -> None:
    assert shows(attack_picture([row(1)], "title"), 64, 64, 64)
    still = attack_picture([row(moved=False)], "title")
    assert shows(still, 127, 127, 127) and not shows(still, 76, 64, 64)


def test_a_row_for_each_image_and_words_that_differ() -> None:
    one, two = attack_picture([row()], "t"), attack_picture([row(), row()], "t")
    heights = [Image.open(io.BytesIO(picture)).height for picture in (one, two)]
    assert heights[1] > 1.8 * heights[0]
    assert one == attack_picture([row()], "t") and one != attack_picture([row(before="owl (99.0 %)")], "t")


@pytest.mark.parametrize("name", ["$x^{", "猫.png", "a" * 300, "<b>&amp;\\n"])
def test_any_name_can_be_drawn(name: str) -> None:
    assert len(attack_picture([row(name=name, before=name)], name)) > 1000
