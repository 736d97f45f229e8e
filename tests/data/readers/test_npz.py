"""Arrays in .npz files: shapes, ranges, held-out parts, and what is refused."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_sources import only_value, refusal
from reference import as_numpy

from robust_student.core.tensors import UNBOUNDED, UNIT_RANGE, Shape
from robust_student.data.readers.load import load_data


def save_arrays(folder: Path, **arrays: Any) -> str:
    """Write the arrays; ten images or rows with labels 0 and 1 are the default training set."""
    path = folder / "some.npz"
    defaults = {"x_train": np.zeros((10, 4, 4), np.uint8), "y_train": np.arange(10) % 2}
    present: dict[str, Any] = {name: value for name, value in (defaults | arrays).items() if value is not None}
    np.savez(path, **present)
    return f"npz:{path}"


@pytest.mark.parametrize(
    ("stored", "shape"),
    [((10, 4, 5), (1, 4, 5)), ((10, 4, 5, 3), (3, 4, 5)), ((10, 3, 4, 5), (3, 4, 5)), ((10, 4, 5, 1), (1, 4, 5))],
)
def test_pixel_arrays_become_channels_first(stored: tuple[int, ...], shape: Shape, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, stored).astype(np.uint8)
    data = load_data(save_arrays(tmp_path, x_train=pixels, x_test=pixels, y_test=np.arange(10) % 2))
    assert data.shape == shape and data.training_examples.inputs.dtype == torch.uint8 and data.input_range == UNIT_RANGE
    channels_first = pixels.transpose(0, 3, 1, 2) if stored[-1] in (1, 3) else pixels.reshape(10, *shape)
    assert np.array_equal(data.test.inputs.numpy(), channels_first)
    assert np.allclose(data.test.floats().numpy(), channels_first / 255)


def test_float_inputs_inside_the_unit_interval_have_the_unit_range(tmp_path: Path) -> None:
    data = load_data(save_arrays(tmp_path, x_train=np.random.default_rng(0).random((10, 6))))
    assert (
        data.input_range == UNIT_RANGE and data.scale is None and data.training_examples.inputs.dtype == torch.float32
    )


def test_tabular_inputs_are_unbounded_with_the_training_deviation_as_unit(tmp_path: Path) -> None:
    table = np.random.default_rng(0).normal(3.0, (0.1, 1.0, 10.0), (10, 3))
    table[:, 1] = 7.0
    data = load_data(save_arrays(tmp_path, x_train=table, x_test=table[:4], y_test=np.zeros(4, int)))
    assert data.input_range == UNBOUNDED and data.scale is not None
    deviations = np.sqrt(((table - table.mean(axis=0)) ** 2).mean(axis=0))
    np.testing.assert_allclose(as_numpy(data.scale), [deviations[0], 1.0, deviations[2]], rtol=1e-5)


@pytest.mark.parametrize("outlier", [-0.5, 1.5])
def test_no_test_input_lies_outside_the_declared_range(outlier: float, tmp_path: Path) -> None:
    test = np.full((4, 3), 0.5)
    test[2, 1] = outlier
    train = np.random.default_rng(0).random((10, 3))
    data = load_data(save_arrays(tmp_path, x_train=train, x_test=test, y_test=np.zeros(4, int)))
    assert torch.equal(data.input_range.clip(data.test.floats()), data.test.floats())


def test_without_test_arrays_a_stratified_fifth_is_held_out(tmp_path: Path) -> None:
    rows = np.arange(40, dtype=np.float64).reshape(20, 2)
    data = load_data(save_arrays(tmp_path, x_train=rows, y_train=np.arange(20) % 2))
    assert (len(data.train), len(data.test)) == (16, 4) and data.test.labels.sum() == 2
    assert sorted(torch.cat([data.training_examples.inputs, data.test.inputs])[:, 0].tolist()) == rows[:, 0].tolist()


def test_class_names_may_come_with_the_arrays(tmp_path: Path) -> None:
    assert load_data(save_arrays(tmp_path, classes=np.array(["no", "yes", "rare"]))).classes == ("no", "yes", "rare")


def test_arrays_may_hold_a_validation_part(tmp_path: Path) -> None:
    part = {"x_validation": np.full((3, 4, 4), 7, np.uint8), "y_validation": np.array([0, 1, 0])}
    data = load_data(save_arrays(tmp_path, **part))
    assert data.validation is not None and data.validation.labels.tolist() == [0, 1, 0]
    assert (len(data.train), len(data.test)) == (8, 2) and only_value(data.validation.inputs) == 7


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"x_validation": np.zeros((3, 4, 4), np.uint8)}, "x_validation and y_validation go together"),
        ({"y_train": np.arange(10), "classes": np.array(["a", "b"])}, "label 9 in y_train"),
        ({"y_train": np.arange(10) - 1}, "label -1 in y_train"),
        ({"x_test": np.zeros((2, 4, 4), np.uint8), "y_test": np.array([0, 2])}, "label 2 in y_test"),
        ({"y_train": np.arange(10) / 2}, "y_train must be one whole number"),
        ({"y_train": np.eye(10, dtype=int)}, "y_train must be one whole number"),
        ({"x_train": np.full((10, 3), np.nan)}, "x_train holds NaN"),
        ({"x_train": np.full((10, 3), -np.inf)}, "x_train holds NaN or infinite"),
        ({"x_train": np.zeros((10, 3), np.int64)}, "x_train must be uint8 or float"),
        ({"x_train": np.zeros(10)}, "x_train must"),
        ({"x_train": np.zeros((9, 3))}, "9 rows"),
        ({"x_train": np.zeros((0, 3)), "y_train": np.zeros(0, int)}, "x_train"),
        ({"x_train": None}, "no array 'x_train'"),
        ({"y_train": None}, "no array 'y_train'"),
        ({"x_test": np.zeros((2, 4, 4), np.uint8)}, "go together"),
        ({"x_test": np.zeros((2, 5, 4), np.uint8), "y_test": np.zeros(2, int)}, "differ in shape"),
        ({"y_train": np.zeros(10, int)}, "only 1 class"),
        ({"x_train": np.zeros((10, 0))}, ""),
        ({"x_train": np.float64(3.0)}, "x_train"),
        ({"y_train": np.int64(3)}, "y_train"),
        ({"classes": np.str_("a")}, ""),
    ],
    ids=lambda value: value.replace(" ", "_") if isinstance(value, str) else "",
)
def test_bad_arrays_are_refused_in_one_line(arrays: dict[str, Any], words: str, tmp_path: Path) -> None:
    assert words in refusal(save_arrays(tmp_path, **arrays))


class Payload:
    """Unpickling this makes a directory."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("name", ["x_train", "y_train", "classes"])
def test_pickled_arrays_are_refused_and_never_executed(name: str, tmp_path: Path) -> None:
    witness = tmp_path / "executed"
    array = np.empty(10, object)
    array[:] = [Payload(witness)] * 10
    message = refusal(save_arrays(tmp_path, **{name: array}))
    assert "cannot read it" in message and not witness.exists()


@pytest.mark.parametrize("content", [b"", b"text", b"PK\3\4 cut short", b"\x93NUMPY"])
def test_a_file_that_is_not_npz_is_refused_by_name(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "some.npz").write_bytes(content)
    assert "some.npz" in refusal(f"npz:{tmp_path / 'some.npz'}")


def test_a_single_npy_array_or_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", np.zeros((4, 4)))
    assert "one.npy" in refusal(f"npz:{tmp_path / 'one.npy'}")
    assert "gone.npz" in refusal(f"npz:{tmp_path / 'gone.npz'}")
