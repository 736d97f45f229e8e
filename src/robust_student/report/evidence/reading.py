"""Checked reading of the files that a report is made of."""

import lzma
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import TypeAdapter, ValidationError

from robust_student.core.errors import UserError
from robust_student.report.document.figures import Style
from robust_student.report.evidence.schema import CommonDetails
from robust_student.results.records import find
from robust_student.results.rows import ROWS, SUMMARY, Key, Row, group
from robust_student.runtime.files import parse_jsonl, read_json, read_jsonl

_T = TypeVar("_T")
_Record = TypeVar("_Record", bound=Mapping[str, Any])
_LARGEST_ROWS = 2_000_000_000
"""Bytes that packed rows may have unpacked: ten million rows."""


@dataclass(frozen=True)
class Saved(ABC, Generic[_Record]):
    """The saved files of one evaluation or certification, read and checked."""

    details: CommonDetails
    records: list[_Record]
    rows: Mapping[Key, Mapping[int, Row]]
    styles: dict[str, Style]
    """Each model's colour, marker and dash, in the order of the command."""

    @property
    @abstractmethod
    def teacher(self) -> str:
        """Name of the teacher, whether it was measured or not."""

    @property
    def names(self) -> list[str]:
        """The models, in the order of the command."""
        return list(self.styles)

    @property
    def data(self) -> str:
        """What the models were measured on."""
        return str(self.details["provenance"].get("data", "unnamed data"))

    @property
    def split(self) -> str:
        """Which examples every figure is of."""
        return self.records[0]["split"] if self.records else "test"

    @property
    def baseline(self) -> str | None:
        """The model that the others are compared to."""
        return self.details["baseline"]

    def get(self, model: str, metric: str, perturbation: str = "none", setting: float | None = None) -> _Record | None:
        """The record of one model, metric, perturbation and setting; None where it was not measured."""
        matching = find(self.records, model, metric, perturbation)
        return next((record for record in matching if record["setting"] == setting), None)


def require_finished(folder: Path, details: str, command: str) -> None:
    """UserError, one line, where `command` has begun to write `folder` but has not finished."""
    if (folder / details).exists() and not (folder / SUMMARY).exists():
        raise UserError(f"directory {folder}: unfinished (no {SUMMARY}): run the same {command} command again")


def read_checked(path: Path, parse: Callable[[Any], _T]) -> _T:
    """What `parse` makes of a JSON file; UserError, one line, where that is missing or damaged."""
    return checked(parse, read_json(path), path)


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """The rows of an evaluation's or a certification's directory, xz-compressed or not; not checked yet."""
    packed = folder / f"{ROWS}.xz"
    if packed.is_file() and not (folder / ROWS).exists():
        try:
            with lzma.open(packed) as stream:
                content = stream.read(_LARGEST_ROWS + 1)
        except (lzma.LZMAError, EOFError):
            raise UserError(f"file {packed}: damaged (not an xz file)") from None
        if len(content) > _LARGEST_ROWS:
            raise UserError(f"file {packed}: unpacks to more than {_LARGEST_ROWS:,} bytes, which no rows are")
        return parse_jsonl(content.decode("utf-8", errors="replace"), packed)
    return read_jsonl(folder / ROWS)


def read_checked_rows(folder: Path) -> dict[Key, dict[int, Row]]:
    """The same rows, checked and grouped; UserError, one line, where one is damaged."""
    return group(checked(TypeAdapter(list[Row]).validate_python, read_rows(folder), folder / ROWS))


def checked(parse: Callable[[Any], _T], value: Any, path: Path) -> _T:
    """What `parse` (of a pydantic type adapter) makes of a value from `path`; a one-line UserError if it refuses."""
    try:
        return parse(value)
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(map(str, problem["loc"]))
        what = f"'{place}': {problem['msg'].lower()}" if place else problem["msg"].lower()
        raise UserError(f"file {path}: unfinished, damaged or of another version ({what})") from None
