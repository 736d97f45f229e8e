"""Images and labels from Parquet files in the layout of Hugging Face datasets."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from robust_student.core.errors import UserError, nearest
from robust_student.core.extras import require
from robust_student.core.tensors import UNIT_RANGE
from robust_student.data.cache import stamps
from robust_student.data.decoding import EncodedImages, decode_all, uniform_format
from robust_student.data.examples import Data, numbered
from robust_student.data.groups import file_name, group_names, is_pattern, with_groups
from robust_student.data.spec import Spec

_IMAGES, _LABELS = ("image", "img"), ("label", "labels", "fine_label")
_ROWS = 512  # read at a time
_PARTS = ("train", "test", "validation")


class _Part(NamedTuple):
    """One part of a set."""

    images: list[bytes]
    """Encoded."""
    labels: list[int]
    groups: list[str]
    """Of each row; empty where nobody asked for groups."""
    classes: tuple[str, ...]
    places: list[str]
    """Each row's, for a complaint."""
    paths: list[Path]
    """The files."""


def read_parquet(spec: Spec) -> Data:
    """`train*.parquet`, `test*.parquet` and `validation*.parquet` in the folder or its sub-folder data.

    Without test files the validation files are the test set. Needs the extra `parquet`.
    """
    folder = spec.folder
    spec.require_images()
    parts = {part: rows for part in _PARTS if (rows := _read_part(folder, part, spec)) is not None}
    if "train" not in parts or len(parts) < 2:
        missing = "train" if "train" not in parts else "test"
        spec.refuse(f"no file {missing}*.parquet there")
    if "test" not in parts:
        parts["test"] = parts.pop("validation")
    if len({rows.classes for rows in parts.values()}) > 1:
        spec.refuse("its files differ in class names")
    pictures = {part: _pictures(rows) for part, rows in parts.items()}
    form = uniform_format(pictures, spec)
    sets = {part: decode_all(pictures[part], rows.labels, form, spec.workers) for part, rows in parts.items()}
    if spec.group is not None:
        sets = with_groups(sets, {part: rows.groups for part, rows in parts.items()})
    name, validation = folder.resolve().name, sets.get("validation")
    return Data(name, sets["train"], sets["test"], parts["train"].classes, UNIT_RANGE, validation=validation)


def _read_part(folder: Path, part: str, spec: Spec) -> _Part | None:
    """The rows of `PART*.parquet`, files in the order of their names; None where there is no such file.

    An image column holds encoded files (`image: {bytes, path}` or plain bytes); class names come from the schema's
    metadata where it has them. Raises UserError.
    """
    paths = sorted(folder.glob(f"{part}*.parquet")) or sorted((folder / "data").glob(f"{part}*.parquet"))
    if not paths:
        return None
    files = [_read_file(path, spec.group) for path in paths]
    named = [file.classes for file in files if file.classes]
    if len(set(named)) > 1 or 0 < len(named) < len(files):
        spec.refuse(f"its {part} files differ in class names")
    labels = [label for file in files for label in file.labels]
    return _Part(
        [image for file in files for image in file.images],
        labels,
        [group for file in files for group in file.groups],
        named[0] if named else numbered(max(labels), f"data '{spec.text}': its {part} files"),
        [place for file in files for place in file.places],
        paths,
    )


def _read_file(path: Path, group: str | None) -> _Part:
    pyarrow = require("pyarrow", "parquet", "data 'parquet:...'")
    parquet = require("pyarrow.parquet", "parquet", "data 'parquet:...'")
    images: list[bytes] = []
    labels: list[int] = []
    marks: list[Any] = []
    try:
        file = parquet.ParquetFile(path)
        names = file.schema_arrow.names
        image, label = _column(names, _IMAGES, path), _column(names, _LABELS, path)
        column = group if group in names and group != image else None
        if group is not None and column is None and not is_pattern(group):
            raise UserError(f"data {path}: no column '{group}' for --group{nearest(group, names)}")
        for batch in file.iter_batches(_ROWS, columns=[image, label] if column is None else [image, label, column]):
            pictures = batch.column(image).to_pylist()
            marks += [file_name(picture) for picture in pictures] if column is None else batch[column].to_pylist()
            for picture, number in zip(pictures, batch.column(label).to_pylist(), strict=True):
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
    groups = [] if group is None else group_names(group, marks, places, column=column is not None)
    return _Part(images, labels, groups, _classes(file.schema_arrow.metadata or {}, label), places, [path])


def _column(names: list[str], alternatives: tuple[str, ...], path: Path) -> str:
    columns = [name for name in alternatives if name in names]
    if not columns:
        raise UserError(f"data {path}: no column {' or '.join(alternatives)} (there are: {', '.join(names)})")
    return columns[0]


def _classes(metadata: dict[bytes, bytes], label: str) -> tuple[str, ...]:
    """Names in the metadata of Hugging Face datasets; empty where there are none."""
    try:
        names = json.loads(metadata[b"huggingface"])["info"]["features"][label]["names"]
        return tuple(str(name) for name in names)
    except (KeyError, TypeError, ValueError):
        return ()


def _pictures(rows: _Part) -> EncodedImages:
    return EncodedImages(rows.images, rows.places, {"what": "parquet", "files": stamps(rows.paths)})
