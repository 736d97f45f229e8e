from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reference import message_of, toy_data

from robust_student.core.tensors import Shape
from robust_student.data.readers.load import Data
from robust_student.evaluation.corruption_sets import open_corruption_set

DATA = toy_data(train=12, test=9, shape=(3, 8, 10))
GREY = toy_data(train=12, test=9, shape=(1, 8, 10))


def images(seed: int, shape: Shape = (45, 8, 10, 3)) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def written(folder: Path, data: Data = DATA, **files: Any) -> Path:
    """A set of two kinds, or with other files in their place."""
    labels = data.test.labels.numpy()
    for name, array in ({"snow": images(0), "spatter": images(1), "labels": labels} | files).items():
        np.save(folder / f"{name}.npy", array)
    return folder


@pytest.mark.parametrize("times", [1, 5])
def test_severities_are_stacked_and_positions_are_those_of_the_test_set(times: int, tmp_path: Path) -> None:
    labels = np.tile(DATA.test.labels.numpy(), times).astype(np.uint8)
    corruption_set = open_corruption_set(written(tmp_path, labels=labels), ["snow", "spatter"], DATA)
    for kind, source in (("snow", images(0)), ("spatter", images(1))):
        for severity in range(1, 6):
            inputs = corruption_set.inputs(kind, severity, [7, 0, 8])
            assert inputs.shape == (3, 3, 8, 10)
            for n, position in enumerate((7, 0, 8)):
                pixels = source[(severity - 1) * 9 + position]
                np.testing.assert_allclose(inputs[n].numpy(), pixels.transpose(2, 0, 1) / 255, rtol=1e-6)


@pytest.mark.parametrize("shape", [(45, 8, 10), (45, 8, 10, 1)])
def test_grey_images_need_no_axis_for_channels(shape: Shape, tmp_path: Path) -> None:
    corruption_set = open_corruption_set(written(tmp_path, snow=images(2, shape)), ["snow"], GREY)
    pixels = images(2, shape).reshape(45, 8, 10)[18 + 4]
    np.testing.assert_allclose(corruption_set.inputs("snow", 3, [4])[0, 0].numpy(), pixels / 255, rtol=1e-6)


def test_the_images_stay_on_disk(tmp_path: Path) -> None:
    assert isinstance(open_corruption_set(written(tmp_path), ["snow"], DATA).images["snow"], np.memmap)


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"snow": images(0, (45, 8, 8, 3))}, "(45, 8, 8, 3), the test set needs uint8 of shape (45, 8, 10, 3)"),
        ({"snow": images(0, (40, 8, 10, 3))}, "(40, 8, 10, 3)"),
        ({"snow": images(0) / 255}, "float64"),
        ({"snow": np.array([{}, None])}, "cannot read snow.npy"),
        ({"labels": np.zeros(9)}, "float64"),
        ({"labels": np.zeros((9, 1), int)}, "(9, 1)"),
        ({"labels": np.zeros(10, int)}, "10 labels; the test set has 9 examples, so 9 or 45 fit"),
        ({"labels": np.arange(9)}, "classes 0 to 8; the data has 3 classes"),
        ({"labels": np.zeros(9, int)}, "in 6 of 9 examples"),
        ({"labels": np.append(np.tile(np.arange(9) % 3, 4), np.zeros(9, int))}, "in 6 of 9 examples"),
    ],
)
def test_files_that_do_not_fit_the_test_set_are_refused(files: dict[str, Any], reason: str, tmp_path: Path) -> None:
    written(tmp_path, **files)
    assert reason in message_of(lambda: open_corruption_set(tmp_path, ["snow"], DATA))


def test_missing_and_damaged_files_are_refused(tmp_path: Path) -> None:
    assert "no KIND.npy files" in message_of(lambda: open_corruption_set(tmp_path / "none", ["snow"], DATA))
    written(tmp_path)
    assert "did you mean 'snow'" in message_of(lambda: open_corruption_set(tmp_path, ["snwo"], DATA))
    whole = (tmp_path / "snow.npy").read_bytes()
    for part in (b"", whole[:4], whole[:60], whole[:-1]):
        (tmp_path / "snow.npy").write_bytes(part)
        assert "cannot read snow.npy" in message_of(lambda: open_corruption_set(tmp_path, ["snow"], DATA))
    with (tmp_path / "snow.npy").open("wb") as file:
        np.savez(file, images=images(0))
    assert "cannot read snow.npy" in message_of(lambda: open_corruption_set(tmp_path, ["snow"], DATA))
    (tmp_path / "labels.npy").unlink()
    assert "no file labels.npy" in message_of(lambda: open_corruption_set(tmp_path, ["snow"], DATA))
