"""Tables in CSV files: one row per example, numeric features and a label."""

import csv
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from robust_student.core.errors import UserError, nearest, require_file
from robust_student.data.examples import Data, Examples, standardised
from robust_student.data.groups import with_groups
from robust_student.data.samples import with_test_part
from robust_student.data.spec import Spec

OPTIONS = ("label", "test", "validation")
"""Names that may follow the file: the label's column, and the files of the other parts."""
_DELIMITERS = ",;\t|"
_LARGEST = float(np.finfo(np.float32).max)


class FeatureTable(NamedTuple):
    """One file: feature names, feature rows `(n, features)`, and the text of each label."""

    features: tuple[str, ...]
    rows: np.ndarray[tuple[int, int], np.dtype[np.float32]]
    labels: list[str]
    groups: list[str]
    """The text of each row's group; empty where there is no column of groups."""


def read_csv(spec: Spec) -> Data:
    """`csv:FILE[,label=COLUMN][,test=FILE][,validation=FILE]`: a header, numeric features and a label column.

    Classes are the labels of the training file, whole numbers in their order, else in alphabetical order. Features stay
    in their own units; a model standardises them with the training statistics that it carries, and the unit of a
    perturbation is each feature's standard deviation in the training set.
    Without a test file a stratified fifth of the rows is set aside, chosen by position.
    """
    column = spec.options.get("label", "label")
    files = {"train": spec.path} | {part: Path(spec.options[part]) for part in OPTIONS[1:] if part in spec.options}
    tables = {part: read_table(path, column, spec.group) for part, path in files.items()}
    classes = _classes(tables["train"].labels)
    numbers = {name: k for k, name in enumerate(classes)}
    parts = {}
    for part, table in tables.items():
        if table.features != tables["train"].features:
            raise UserError(f"data file {files[part]}: its columns are not those of {spec.path}")
        row = next((k for k, label in enumerate(table.labels) if label not in numbers), None)
        if row is not None:
            raise UserError(
                f"data file {files[part]}: row {row + 1}: class '{table.labels[row]}' has no training examples"
            )
        labels = torch.tensor([numbers[label] for label in table.labels], dtype=torch.int64)
        parts[part] = Examples(torch.from_numpy(table.rows), labels)
    if spec.group is not None:
        parts = with_groups(parts, {part: table.groups for part, table in tables.items()})
    parts = with_test_part(parts, classes)
    return standardised(spec.path.stem, parts, classes)


def read_table(path: Path, label: str, group: str | None = None) -> FeatureTable:
    """A CSV file in UTF-8 whose header names its columns; UserError names the row (the header is row 0) and column.

    The columns of the label and of the group, where one is named, are no features.

    The delimiter is the comma, semicolon, tab or bar that the header holds most of.
    """
    require_file(path, f"data file {path}: cannot read it")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            file.seek(0)
            delimiter = max(_DELIMITERS, key=first.count)
            lines = [line for line in csv.reader(file, delimiter=delimiter, strict=True) if line]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"data file {path}: cannot read it ({error})") from None
    header = [name.strip() for name in lines[0]] if lines else []
    if len(lines) < 2:
        raise UserError(f"data file {path}: holds no rows below its header")
    if len(set(header)) < len(header):
        twice = next(name for name in header if header.count(name) > 1)
        raise UserError(f"data file {path}: two columns are called '{twice}'")
    if label not in header:
        raise UserError(f"data file {path}: no column '{label}'{nearest(label, header)} (label=COLUMN says which)")
    if group is not None and (group not in header or group == label):
        others = [name for name in header if name != label]
        raise UserError(f"data file {path}: no column '{group}' for --group{nearest(group, others)}")
    apart = (label,) if group is None else (label, group)
    if len(header) <= len(apart):
        raise UserError(f"data file {path}: has no column besides {' and '.join(map(repr, apart))}")
    features = tuple(name for name in header if name not in apart)
    rows = np.empty((len(lines) - 1, len(features)), np.float32)
    texts: dict[str, list[str]] = {name: [] for name in apart}
    for k, line in enumerate(lines[1:]):
        place = f"data file {path}: row {k + 1}"
        if len(line) != len(header):
            raise UserError(f"{place}: has {len(line)} cells, the header {len(header)}")
        cells = dict(zip(header, line, strict=True))
        for name in apart:
            texts[name].append(cells.pop(name).strip())
            if not texts[name][-1]:
                raise UserError(f"{place}, column '{name}': the {'label' if name == label else 'group'} is missing")
        rows[k] = [_number(cell, f"{place}, column '{name}'") for name, cell in cells.items()]
    return FeatureTable(features, rows, texts[label], [] if group is None else texts[group])


def _number(cell: str, place: str) -> float:
    text = cell.strip()
    if not text:
        raise UserError(f"{place}: the value is missing; fill it in or leave the row out")
    try:
        value = math.nan if "_" in text else float(text)
    except ValueError:
        value = math.nan
    if not abs(value) <= _LARGEST:
        raise UserError(f"{place}: '{text[:40]}' is not a finite number")
    return value


def _classes(labels: list[str]) -> list[str]:
    """The labels that occur: whole numbers in their order, anything else in alphabetical order."""
    names = set(labels)
    whole = all(name.removeprefix("-").isdecimal() and name.isascii() for name in names)
    return sorted(names, key=int) if whole else sorted(names)
