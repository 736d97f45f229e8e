"""Published corruption sets in local files, in the layout of CIFAR-10-C (Hendrycks & Dietterich 2019)."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robust_student.core.errors import UserError, nearest
from robust_student.core.tensors import Shape
from robust_student.corruptions.kinds import SEVERITIES
from robust_student.data.readers.load import Data

_LABELS = "labels"


@dataclass(frozen=True, eq=False)
class CorruptionSet:
    """Corrupted copies of a whole test set: per kind an array `(5 * n, height, width, channels)` of bytes on disk."""

    images: dict[str, np.ndarray[Any, np.dtype[np.uint8]]]
    """Severity 1 first, the n examples of each severity in the order of the test set; memory-mapped."""

    def inputs(self, kind: str, severity: int, positions: Sequence[int]) -> Tensor:
        """Test examples `(len(positions), channels, height, width)` under a kind of corruption, pixels in [0, 1]."""
        images = self.images[kind]
        each = len(images) // len(SEVERITIES)
        pixels = torch.from_numpy(images[[(severity - 1) * each + position for position in positions]])
        return (pixels if pixels.dim() == 4 else pixels[..., None]).permute(0, 3, 1, 2).float() / 255


def open_corruption_set(folder: Path, kinds: Sequence[str], data: Data) -> CorruptionSet:
    """Open `KIND.npy` of each kind beside `labels.npy`, without reading the images into memory.

    Each fifth of the labels, or all of them where there are n, must be those of the test set in its order: a model's
    accuracy with and without corruption is then that on the same examples. Raises UserError where a file is missing,
    damaged, holds another shape or type, or belongs to other examples.
    """
    _check_labels(folder, _open(folder, _LABELS), data)
    channels, height, width = data.shape
    shapes: list[Shape] = [(len(SEVERITIES) * len(data.test), height, width, channels)]
    shapes += [shapes[0][:3]] if channels == 1 else []
    images = {kind: _open(folder, kind) for kind in kinds}
    for kind, array in images.items():
        if array.dtype != np.uint8 or array.shape not in shapes:
            raise UserError(
                f"corruption set {folder}: {kind}.npy holds {array.dtype} of shape {array.shape}, the test set needs "
                f"uint8 of shape {shapes[0]}"
            )
    return CorruptionSet(images)


def set_digest(folder: Path, kinds: Sequence[str]) -> str:
    """SHA-256 of the names and contents of the set's files for these kinds and of its labels."""
    total = hashlib.sha256()
    for name in [*sorted(kinds), _LABELS]:
        with (folder / f"{name}.npy").open("rb") as file:
            total.update(f"{name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()


def _open(folder: Path, name: str) -> np.ndarray[Any, np.dtype[Any]]:
    path = folder / f"{name}.npy"
    if not path.is_file():
        present = sorted(p.stem for p in folder.glob("*.npy") if p.stem != _LABELS)
        if not present:
            raise UserError(f"corruption set {folder}: no KIND.npy files there")
        hint = nearest(name, present) if name != _LABELS else ""
        raise UserError(f"corruption set {folder}: no file {name}.npy{hint}")
    try:
        return np.lib.format.open_memmap(path, mode="r")  # never unpickles
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"corruption set {folder}: cannot read {name}.npy ({' '.join(str(error).split())})") from None


def _check_labels(folder: Path, labels: np.ndarray[Any, np.dtype[Any]], data: Data) -> None:
    place, n, classes = f"corruption set {folder}: labels.npy", len(data.test), len(data.classes)
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise UserError(f"{place} holds {labels.dtype} of shape {labels.shape}, not one whole number per image")
    if len(labels) not in (n, len(SEVERITIES) * n):
        raise UserError(f"{place} holds {len(labels)} labels; the test set has {n} examples, so {n} or {5 * n} fit")
    if labels.min() < 0 or labels.max() >= classes:
        raise UserError(f"{place} holds classes {labels.min()} to {labels.max()}; the data has {classes} classes")
    wrong = int((labels.reshape(-1, n) != data.test.labels.numpy()).any(axis=0).sum())
    if wrong:
        raise UserError(
            f"{place} differs from the labels of the test set in {wrong} of {n} examples: give the test set in the "
            "order of the corruption set (for CIFAR-10-C, that of the original files)"
        )
