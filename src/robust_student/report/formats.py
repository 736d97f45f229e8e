"""What a report can be: its kinds, its formats, and the suffixes of their files."""

from pathlib import Path
from typing import Literal

from robust_student.core.errors import UserError

Kind = Literal["report", "comparison", "seeds"]
Format = Literal["html", "markdown", "json"]
SUFFIXES: dict[str, Format] = {
    ".html": "html",
    ".htm": "html",
    ".md": "markdown",
    ".markdown": "markdown",
    ".json": "json",
}
"""The first of a format is the one that its files get where nobody names them."""


def format_of(output: Path) -> Format:
    """The format that a file's suffix asks for; UserError where it asks for none."""
    if output.suffix not in SUFFIXES:
        raise UserError(f"output {output}: ends in none of .html, .md and .json; rename it or pass --format")
    return SUFFIXES[output.suffix]


def suffix_of(style: Format) -> str:
    """The usual suffix of a format's files."""
    return next(suffix for suffix, known in SUFFIXES.items() if known == style)
