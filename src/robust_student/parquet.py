"""Images and labels from Parquet files in the layout of Hugging Face datasets."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from robust_student.tensors import UserError

_IMAGES, _LABELS = ("image", "img"), ("label", "labels", "fine_label")
_ROWS = 512  # decoded at a time


class Table(NamedTuple):
    """One split: pixels `(n, channels, height, width)` as uint8, labels `(n,)`, class names."""

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    classes: tuple[str, ...]


def read_split(folder: Path, split: str) -> Table:
    """The rows of `split*.parquet` in `folder` (or its sub-folder data), files in the order of their names.

    An image column holds encoded files (`image: {bytes, path}` or plain bytes), all of one size; class names come from
    the schema's metadata where it has them. Needs the extra `parquet`. Raises UserError.
    """
    paths = sorted(folder.glob(f"{split}*.parquet")) or sorted((folder / "data").glob(f"{split}*.parquet"))
    if not paths:
        raise UserError(f"data 'parquet:{folder}': no file {split}*.parquet there")
    parts = [_read_file(path) for path in paths]
    shapes = {part.images.shape[1:] for part in parts}
    if len(shapes) > 1 or len({part.classes for part in parts}) > 1:
        raise UserError(f"data 'parquet:{folder}': its {split} files differ in image size or class names")
    images, labels = (np.concatenate(arrays) for arrays in zip(*((p.images, p.labels) for p in parts), strict=True))
    return Table(images, labels, parts[0].classes)


def _read_file(path: Path) -> Table:
    try:
        import pyarrow
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise UserError("data 'parquet:...': needs pyarrow; pip install 'robust-student[parquet]'") from None
    try:
        file = ParquetFile(path)
        names = file.schema_arrow.names
        image, label = _column(names, _IMAGES, path), _column(names, _LABELS, path)
        batches = file.iter_batches(_ROWS, columns=[image, label])
        images, labels = _decode(batches, path, file.metadata.num_rows)
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"data {path}: not a readable Parquet file ({' '.join(str(error).split())[:200]})") from None
    return Table(images, labels, _classes(file.schema_arrow.metadata or {}, label, labels))


def _column(names: list[str], wanted: tuple[str, ...], path: Path) -> str:
    found = [name for name in wanted if name in names]
    if not found:
        raise UserError(f"data {path}: no column {' or '.join(wanted)} (there are: {', '.join(names)})")
    return found[0]


def _decode(batches: Iterator[Any], path: Path, count: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    images: npt.NDArray[np.uint8] | None = None
    labels = np.empty(count, dtype=np.int64)
    row = 0
    for batch in batches:
        for picture, label in zip(batch.column(0).to_pylist(), batch.column(1).to_pylist(), strict=True):
            pixels = _pixels(picture, f"data {path}: row {row}")
            if not isinstance(label, int) or label < 0:
                raise UserError(f"data {path}: row {row}: label {label!r} is not a class number")
            if images is None:
                images = np.empty((count, *pixels.shape), dtype=np.uint8)
            if pixels.shape != images.shape[1:]:
                size = f"{pixels.shape}, the first is {images.shape[1:]}"
                raise UserError(f"data {path}: row {row}: the image is {size}; resize them to one size first")
            images[row], labels[row] = pixels, label
            row += 1
    if images is None:
        raise UserError(f"data {path}: holds no rows")
    return images, labels


def _pixels(picture: Any, place: str) -> npt.NDArray[np.uint8]:
    """An encoded image as `(channels, height, width)`: one channel for grey files, else three."""
    content = picture.get("bytes") if isinstance(picture, dict) else picture
    if not isinstance(content, bytes):
        raise UserError(f"{place}: holds no image bytes")
    try:
        with Image.open(io.BytesIO(content)) as image:
            pixels = np.asarray(image.convert("L" if image.mode in ("1", "L", "I;16") else "RGB"))
    except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{place}: not a readable image ({' '.join(str(error).split())[:120]})") from None
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _classes(metadata: dict[bytes, bytes], label: str, labels: npt.NDArray[np.int64]) -> tuple[str, ...]:
    """Names in the metadata of Hugging Face datasets, or the numbers themselves."""
    try:
        names = json.loads(metadata[b"huggingface"])["info"]["features"][label]["names"]
        return tuple(str(name) for name in names)
    except (KeyError, TypeError, ValueError):
        return tuple(str(k) for k in range(int(labels.max()) + 1))
