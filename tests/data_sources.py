"""Small data sources that tests write, and the complaint about a bad one."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from torch import Tensor

from robust_student.core.errors import UserError
from robust_student.data.readers.load import load_data

Array = npt.NDArray[Any]


def refusal(spec: str, **options: Any) -> str:
    """The one-line message with which the data are refused."""
    with pytest.raises(UserError) as error:
        load_data(spec, **options)
    message = str(error.value)
    assert len(message.splitlines()) == 1
    return message


def only_value(pixels: Tensor) -> int:
    """The one value that all pixels have."""
    (value,) = set(pixels.flatten().tolist())
    return int(value)


def save_image(path: Path, pixels: Array, **options: Any) -> None:
    """Write an image file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


def fill(
    folder: Path, classes: Sequence[str] = ("cat", "dog"), count: int = 5, side: int = 6, colour: bool = False
) -> Path:
    """PNG images of one value per class and number."""
    for k, name in enumerate(classes):
        for i in range(count):
            pixels = np.full((side, side, 3) if colour else (side, side), 20 * k + i, np.uint8)
            save_image(folder / name / f"{i}.png", pixels)
    return folder
