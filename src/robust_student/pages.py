"""What every page of the report shares: checked reading of saved files, the templates, numbers for people."""

import lzma
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from jinja2 import Environment, FunctionLoader, StrictUndefined
from pydantic import ValidationError

from robust_student.core.errors import UserError
from robust_student.figures import BAND, NORMS, SIDES
from robust_student.results.comparison import p_text
from robust_student.results.rows import ROWS, SUMMARY
from robust_student.runtime.files import parse_jsonl, read_json, read_jsonl

T = TypeVar("T")
LARGEST_ROWS = 2_000_000_000
"""Bytes that packed rows may have unpacked: ten million rows."""


def render(template: str, **content: Any) -> str:
    """The page that a template of this package makes; every value is escaped."""
    environment = Environment(
        loader=FunctionLoader(_source), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"number": number, "heat": heat, "p_text": p_text}
    environment.globals |= {"norms": NORMS, "looks": SIDES | {"band": BAND}}
    return environment.get_template(template).render(**content)


def number(value: float, form: str = ".3g") -> str:
    """A number for people, with a true minus sign; zero has no sign."""
    text = f"{value:{form}}"
    return text.lstrip("+-") if float(text) == 0 else text.replace("-", "\u2212")


def place(perturbation: str, setting: float | None, suite: str | None = None) -> str:
    """The name of a perturbation at a setting for people; `suite` is AutoAttack's."""
    value = "" if setting is None else number(setting, "g")
    head, _, rest = perturbation.partition("_")
    if perturbation == "none":
        return "Clean"
    if perturbation == "gaussian_snr_db":
        return f"Noise, {value}\u00a0dB" if value else "Noise"
    if head == "pgd":
        return f"PGD, {NORMS.get(rest, rest)}\u00a0{value}"
    if head == "autoattack":
        return f"AutoAttack{f' ({suite})' if suite else ''}, {NORMS.get(rest, rest)}\u00a0{value}"
    if head == "corruption":
        return f"{rest.replace('_', ' ')}, severity\u00a0{value}"
    return f"{perturbation} {value}".strip()


def percent(record: Mapping[str, Any] | None) -> str:
    """An accuracy with its interval in percent, as text: "80.5 [74.5, 85.4]"."""
    if record is None or record["value"] is None:
        return "\u2013"
    text = number(100 * record["value"], ".1f")
    if record["low"] is None or record["high"] is None:
        return text
    return f"{text} [{number(100 * record['low'], '.1f')}, {number(100 * record['high'], '.1f')}]"


def heat(share: float) -> str:
    """Colours of a heat map's cell as CSS: white for 0, dark blue for 1, and text that stays readable on it."""
    share = min(max(share, 0.0), 1.0)
    red, green, blue = (round(255 + share * (end - 255)) for end in (0, 78, 140))
    return f"background:rgb({red},{green},{blue});color:{'#fff' if share > 0.7 else '#1b1f24'}"


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
