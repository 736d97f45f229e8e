"""A trained network and a folder of photos for commands to work on."""

from pathlib import Path

import numpy as np
import pytest
from command_line import run
from PIL import Image


@pytest.fixture(scope="session")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory of a small network trained on the digits."""
    output = tmp_path_factory.mktemp("runs") / "teacher"
    run("train", "--data", "digits", "--model", "mlp:16", "--epochs", "3", "--output", str(output))
    return output


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of colour images of different sizes in two classes."""
    root = tmp_path_factory.mktemp("data") / "photos"
    rng = np.random.default_rng(0)
    for name, base in (("cat", 60), ("dog", 190)):
        (root / name).mkdir(parents=True)
        for number in range(20):
            size = (12 + number % 3, 14, 3)
            pixels = (base + rng.integers(-40, 40, size)).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    return root
