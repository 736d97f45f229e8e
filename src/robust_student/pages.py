"""What every page of the report shares: checked reading of saved files, the templates, numbers for people."""

from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from jinja2 import Environment, FunctionLoader, StrictUndefined
from pydantic import ValidationError

from robust_student.figures import BAND, NORMS, SIDES
from robust_student.results import ROWS, SUMMARY
from robust_student.runs import read_json, read_jsonl
from robust_student.tensors import UserError

T = TypeVar("T")


def render(template: str, **content: Any) -> str:
    """The page that a template of this package makes; every value is escaped."""
    environment = Environment(
        loader=FunctionLoader(_source), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["number"] = number
    environment.globals |= {"norms": NORMS, "looks": SIDES | {"band": BAND}}
    return environment.get_template(template).render(**content)


def number(value: float, form: str = ".3g") -> str:
    """A number for people, with a true minus sign; zero has no sign."""
    text = f"{value:{form}}"
    return text.lstrip("+-") if float(text) == 0 else text.replace("-", "\u2212")


def require_finished(folder: Path, details: str, command: str) -> None:
    """UserError, one line, where `command` has begun to write `folder` but has not finished."""
    if (folder / details).exists() and not (folder / SUMMARY).exists():
        raise UserError(f"directory {folder}: unfinished (no {SUMMARY}): run the same {command} command again")


def read_checked(path: Path, parse: Callable[[Any], T]) -> T:
    """What `parse` makes of a JSON file; UserError, one line, where that is missing or damaged."""
    return checked(parse, read_json(path), path)


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """The rows of an evaluation's or a certification's directory, not checked yet."""
    if not (folder / ROWS).is_file():
        raise UserError(f"file {folder / ROWS}: cannot read it (no such file)")
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


def _source(name: str) -> str:
    return resources.files("robust_student").joinpath(name).read_text(encoding="utf-8")
