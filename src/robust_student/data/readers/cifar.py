"""CIFAR-10 and CIFAR-100: the Python batches of their authors, or Parquet files."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from robust_student.core.errors import UserError
from robust_student.core.tensors import UNIT_RANGE
from robust_student.data.examples import Data, Examples
from robust_student.data.readers.parquet import read_parquet
from robust_student.data.readers.pickles import read_pickle
from robust_student.data.spec import Spec

_SHAPE = (3, 32, 32)


class _Layout(NamedTuple):
    """The files of one of the two sets, and the names of what they hold."""

    folder: str
    train: tuple[str, ...]
    test: str
    labels: str
    meta: str
    names: str
    classes: int


_CIFAR10 = _Layout(
    "cifar-10-batches-py",
    tuple(f"data_batch_{number}" for number in range(1, 6)),
    "test_batch",
    "labels",
    "batches.meta",
    "label_names",
    10,
)
_CIFAR100 = _Layout("cifar-100-python", ("train",), "test", "fine_labels", "meta", "fine_label_names", 100)


def read_cifar10(spec: Spec) -> Data:
    """CIFAR-10 (Krizhevsky 2009): `data_batch_1` to `_5`, `test_batch` and `batches.meta`, or Parquet files."""
    return _read(spec, _CIFAR10)


def read_cifar100(spec: Spec) -> Data:
    """CIFAR-100 with its fine labels: `train`, `test` and `meta`, or Parquet files."""
    return _read(spec, _CIFAR100)


def _read(spec: Spec, layout: _Layout) -> Data:
    """Whatever of the two layouts is in the folder; UserError where it is not that set."""
    folder = spec.folder / layout.folder if (spec.folder / layout.folder).is_dir() else spec.folder
    if (folder / layout.test).is_file():
        data = _read_batches(folder, layout)
    elif any(folder.glob("train*.parquet")) or any((folder / "data").glob("train*.parquet")):
        data = read_parquet(spec)
    else:
        spec.refuse(f"neither {layout.test} nor train*.parquet there")
    if len(data.classes) != layout.classes:
        spec.refuse(f"has {len(data.classes)} classes, not {layout.classes}")
    return data


def _read_batches(folder: Path, layout: _Layout) -> Data:
    meta = folder / layout.meta
    names = _entry(read_pickle(meta), layout.names, meta)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"data file {meta}: '{layout.names}' is no list of names")
    batches = [_read_batch(folder / name, layout) for name in layout.train]
    train = Examples(torch.cat([one.inputs for one in batches]), torch.cat([one.labels for one in batches]))
    return Data(folder.resolve().name, train, _read_batch(folder / layout.test, layout), tuple(names), UNIT_RANGE)


def _read_batch(path: Path, layout: _Layout) -> Examples:
    """One file: rows of 3072 bytes, the red plane first, and as many labels."""
    content = read_pickle(path)
    pixels, labels = _entry(content, "data", path), _entry(content, layout.labels, path)
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape[1:] != (3072,):
        raise UserError(f"data file {path}: 'data' is no array of bytes with 3072 columns")
    if not isinstance(labels, list) or len(labels) != len(pixels) or not all(type(y) is int for y in labels):
        raise UserError(f"data file {path}: '{layout.labels}' is no list of {len(pixels)} class numbers")
    wrong = [label for label in labels if not 0 <= label < layout.classes]
    if wrong:
        raise UserError(f"data file {path}: label {wrong[0]} is out of range for {layout.classes} classes")
    return Examples(torch.from_numpy(pixels.reshape(-1, *_SHAPE).copy()), torch.tensor(labels, dtype=torch.int64))


def _entry(content: Any, name: str, path: Path) -> Any:
    if not isinstance(content, dict) or name not in content:
        raise UserError(f"data file {path}: holds no '{name}'")
    return content[name]
