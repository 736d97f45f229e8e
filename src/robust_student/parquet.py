"""Images and labels from Parquet files in the layout of Hugging Face datasets."""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from robust_student.examples import Data, Examples
from robust_student.pictures import Format, Look, decode, look
from robust_student.specs import Spec
from robust_student.tensors import UNIT_RANGE, UserError

_IMAGES, _LABELS = ("image", "img"), ("label", "labels", "fine_label")
_ROWS = 512  # read at a time
PARTS = ("train", "test", "validation")


class Rows(NamedTuple):
    """One part of a set: encoded images, class numbers, class names, and the place of each row for a complaint."""

    images: list[bytes]
    labels: list[int]
    classes: tuple[str, ...]
    places: list[str]


def read_parquet(spec: Spec) -> Data:
    """`train*.parquet`, `test*.parquet` and `validation*.parquet` in the folder or its sub-folder data.

    Without test files the validation files are the test set. Needs the extra `parquet`.
    """
    folder = spec.folder
    spec.require_images()
    parts = {part: rows for part in PARTS if (rows := read_part(folder, part, spec)) is not None}
    if "train" not in parts or len(parts) < 2:
        missing = "train" if "train" not in parts else "test"
        spec.refuse(f"no file {missing}*.parquet there")
    if "test" not in parts:
        parts["test"] = parts.pop("validation")
    if len({rows.classes for rows in parts.values()}) > 1:
        spec.refuse("its files differ in class names")
    form = _format(parts, spec)
    examples = {part: _examples(rows, form) for part, rows in parts.items()}
    classes, validation = parts["train"].classes, examples.get("validation")
    return Data(folder.resolve().name, examples["train"], examples["test"], classes, UNIT_RANGE, validation=validation)


def read_part(folder: Path, part: str, spec: Spec) -> Rows | None:
    """The rows of `PART*.parquet`, files in the order of their names; None where there is no such file.

    An image column holds encoded files (`image: {bytes, path}` or plain bytes); class names come from the schema's
    metadata where it has them. Raises UserError.
    """
    paths = sorted(folder.glob(f"{part}*.parquet")) or sorted((folder / "data").glob(f"{part}*.parquet"))
    if not paths:
        return None
    files = [_read_file(path) for path in paths]
    named = [file.classes for file in files if file.classes]
    if len(set(named)) > 1 or 0 < len(named) < len(files):
        spec.refuse(f"its {part} files differ in class names")
    labels = [label for file in files for label in file.labels]
    return Rows(
        [image for file in files for image in file.images],
        labels,
        named[0] if named else tuple(str(k) for k in range(max(labels) + 1)),
        [place for file in files for place in file.places],
    )


def _read_file(path: Path) -> Rows:
    try:
        import pyarrow
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise UserError("data 'parquet:...': needs pyarrow; pip install 'robust-student[parquet]'") from None
    images: list[bytes] = []
    labels: list[int] = []
    try:
        file = ParquetFile(path)
        names = file.schema_arrow.names
        image, label = _column(names, _IMAGES, path), _column(names, _LABELS, path)
        for batch in file.iter_batches(_ROWS, columns=[image, label]):
            for picture, number in zip(batch.column(0).to_pylist(), batch.column(1).to_pylist(), strict=True):
                place = f"data {path}: row {len(images)}"
                content = picture.get("bytes") if isinstance(picture, dict) else picture
                if not isinstance(content, bytes):
                    raise UserError(f"{place}: holds no image bytes")
                if not isinstance(number, int) or number < 0:
                    raise UserError(f"{place}: label {number!r} is not a class number")
                images.append(content)
                labels.append(number)
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"data {path}: not a readable Parquet file ({' '.join(str(error).split())[:200]})") from None
    if not images:
        raise UserError(f"data {path}: holds no rows")
    places = [f"data {path}: row {row}" for row in range(len(images))]
    return Rows(images, labels, _classes(file.schema_arrow.metadata or {}, label), places)


def _column(names: list[str], wanted: tuple[str, ...], path: Path) -> str:
    found = [name for name in wanted if name in names]
    if not found:
        raise UserError(f"data {path}: no column {' or '.join(wanted)} (there are: {', '.join(names)})")
    return found[0]


def _classes(metadata: dict[bytes, bytes], label: str) -> tuple[str, ...]:
    """Names in the metadata of Hugging Face datasets; empty where there are none."""
    try:
        names = json.loads(metadata[b"huggingface"])["info"]["features"][label]["names"]
        return tuple(str(name) for name in names)
    except (KeyError, TypeError, ValueError):
        return ()


def _format(parts: dict[str, Rows], spec: Spec) -> Format:
    """What a model expects; else the size asked for, or that of all images; grey only if every image is."""
    if spec.shape is not None:
        return Format(*spec.shape)
    grey, first = True, None
    for rows in parts.values():
        for image, place in zip(rows.images, rows.places, strict=True):
            found: Look = look(image, place)
            grey, first = grey and found.grey, first or found
            if spec.size is None and found.size != first.size:
                (h, w), (height, width) = found.size, first.size
                asked = "ask for one size with --image-size"
                raise UserError(f"{place}: the image is {h}x{w}, the first is {height}x{width}; {asked}")
    assert first is not None
    return Format(1 if grey else 3, *(spec.size or first.size))


def _examples(rows: Rows, form: Format) -> Examples:
    inputs = np.empty((len(rows.images), *form), np.uint8)
    for row, (image, place) in enumerate(zip(rows.images, rows.places, strict=True)):
        inputs[row] = decode(image, form, place)
    return Examples(torch.from_numpy(inputs), torch.tensor(rows.labels, dtype=torch.int64))
