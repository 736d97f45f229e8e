"""Checked reading of the files that a report is made of."""

import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from robust_student.core.errors import UserError
from robust_student.results.rows import ROWS, SUMMARY
from robust_student.runtime.files import parse_jsonl, read_json, read_jsonl

T = TypeVar("T")
LARGEST_ROWS = 2_000_000_000
"""Bytes that packed rows may have unpacked: ten million rows."""


def require_finished(folder: Path, details: str, command: str) -> None:
    """UserError, one line, where `command` has begun to write `folder` but has not finished."""
    if (folder / details).exists() and not (folder / SUMMARY).exists():
        raise UserError(f"directory {folder}: unfinished (no {SUMMARY}): run the same {command} command again")


def read_checked(path: Path, parse: Callable[[Any], T]) -> T:
    """What `parse` makes of a JSON file; UserError, one line, where that is missing or damaged."""
    return checked(parse, read_json(path), path)


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """The rows of an evaluation's or a certification's directory, xz-compressed or not; not checked yet."""
    packed = folder / f"{ROWS}.xz"
    if packed.is_file() and not (folder / ROWS).exists():
        try:
            with lzma.open(packed) as stream:
                content = stream.read(LARGEST_ROWS + 1)
        except (lzma.LZMAError, EOFError):
            raise UserError(f"file {packed}: damaged (not an xz file)") from None
        if len(content) > LARGEST_ROWS:
            raise UserError(f"file {packed}: unpacks to more than {LARGEST_ROWS:,} bytes, which no rows are")
        return parse_jsonl(content.decode("utf-8", errors="replace"), packed)
    return read_jsonl(folder / ROWS)


def checked(parse: Callable[[Any], T], value: Any, path: Path) -> T:
    """What `parse` (of a pydantic type adapter) makes of a value from `path`; a one-line UserError if it refuses."""
    try:
        return parse(value)
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(map(str, problem["loc"]))
        what = f"'{place}': {problem['msg'].lower()}" if place else problem["msg"].lower()
        raise UserError(f"file {path}: unfinished, damaged or of another version ({what})") from None
