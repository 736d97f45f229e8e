"""IDX files: pixels and labels, and every damage is named."""

import gzip
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from data_sources import refusal

from robust_student.core.tensors import UNIT_RANGE
from robust_student.data.readers.load import load_data

Array = npt.NDArray[Any]
MNIST_VARIABLE = "ROBUST_STUDENT_MNIST"
IDX_PARTS = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def idx(array: Array, kind: int = 8) -> bytes:
    """The array as an IDX file."""
    return struct.pack(f">HBB{array.ndim}I", 0, kind, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


@pytest.fixture
def idx_folder(tmp_path: Path) -> Path:
    """Five training and three test images of 4x3 pixels."""
    rng = np.random.default_rng(0)
    contents = [
        rng.integers(0, 256, (5, 4, 3)),
        np.array([0, 1, 2, 0, 1]),
        rng.integers(0, 256, (3, 4, 3)),
        np.arange(3),
    ]
    for name, content in zip(IDX_PARTS, contents, strict=True):
        (tmp_path / name).write_bytes(idx(content))
    return tmp_path


def test_idx_files_give_their_pixels_and_labels(idx_folder: Path) -> None:
    data = load_data(f"mnist:{idx_folder}")
    expected = np.random.default_rng(0).integers(0, 256, (5, 4, 3))
    assert data.shape == (1, 4, 3) and data.training_examples.inputs.dtype == torch.uint8
    assert np.array_equal(data.training_examples.inputs[:, 0].numpy(), expected)
    assert data.training_examples.labels.tolist() == [0, 1, 2, 0, 1] and data.test.labels.tolist() == [0, 1, 2]
    assert data.classes == ("0", "1", "2") and data.input_range == UNIT_RANGE


def test_gzipped_and_dotted_idx_files_read_like_raw_ones(idx_folder: Path) -> None:
    plain = load_data(f"mnist:{idx_folder}")
    for name in IDX_PARTS:
        content = (idx_folder / name).read_bytes()
        (idx_folder / name).unlink()
        if "labels" in name:
            (idx_folder / name.replace("-idx", ".idx")).write_bytes(content)
        else:
            (idx_folder / f"{name}.gz").write_bytes(gzip.compress(content))
    again = load_data(f"mnist:{idx_folder}")
    assert torch.equal(plain.training_examples.inputs, again.training_examples.inputs) and torch.equal(
        plain.test.labels, again.test.labels
    )


@pytest.mark.parametrize("name", IDX_PARTS)
def test_a_missing_idx_file_is_named(name: str, idx_folder: Path) -> None:
    (idx_folder / name).unlink()
    assert name in refusal(f"mnist:{idx_folder}")


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:3],
        lambda content: content[:-1],
        lambda content: content + b"\0",
        lambda content: b"\1" + content[1:],
        lambda content: content[:2] + b"\x0d" + content[3:],
        lambda content: gzip.compress(content)[:-9],
        lambda content: gzip.compress(content)[:12] + b"\xff" * 20,
    ],
    ids=["empty", "header cut", "data cut", "too long", "magic", "not bytes", "gzip cut", "gzip damaged"],
)
def test_a_damaged_idx_file_is_named(damage: Callable[[bytes], bytes], idx_folder: Path) -> None:
    path = idx_folder / IDX_PARTS[0]
    path.write_bytes(damage(path.read_bytes()))
    assert str(path) in refusal(f"mnist:{idx_folder}")


@pytest.mark.parametrize("swapped", [np.arange(4), np.zeros((5, 1))], ids=["count", "dimensions"])
def test_idx_labels_that_do_not_belong_to_the_images_are_refused(swapped: Array, idx_folder: Path) -> None:
    (idx_folder / IDX_PARTS[1]).write_bytes(idx(swapped))
    assert "do not belong together" in refusal(f"mnist:{idx_folder}")


def test_an_idx_test_label_without_training_class_is_refused(idx_folder: Path) -> None:
    (idx_folder / IDX_PARTS[3]).write_bytes(idx(np.array([0, 1, 3])))
    assert "test label 3 is out of range for 3 classes" in refusal(f"mnist:{idx_folder}")


def test_an_idx_set_without_test_images_is_refused(idx_folder: Path) -> None:
    (idx_folder / IDX_PARTS[2]).write_bytes(idx(np.zeros((0, 4, 3))))
    (idx_folder / IDX_PARTS[3]).write_bytes(idx(np.zeros(0)))
    refusal(f"mnist:{idx_folder}")


@pytest.mark.skipif(MNIST_VARIABLE not in os.environ, reason=f"set {MNIST_VARIABLE} to a folder with the IDX files")
def test_mnist_itself_has_its_published_sizes() -> None:
    data = load_data(f"mnist:{os.environ[MNIST_VARIABLE]}")
    assert (len(data.train), len(data.test), data.shape, len(data.classes)) == (60_000, 10_000, (1, 28, 28), 10)
    if data.training_examples.labels[:5].tolist() == [5, 0, 4, 1, 9]:
        mean, std = data.statistics()
        assert (round(float(mean), 4), round(float(std), 4)) == (0.1307, 0.3081)
