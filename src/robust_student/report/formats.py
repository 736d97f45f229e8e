"""What a report can be: its kinds, its formats, and the suffixes of their files."""

from pathlib import Path
from typing import Literal

from robust_student.core.errors import UserError

ReportKind = Literal["report", "comparison", "seeds"]
ReportFormat = Literal["html", "markdown", "json"]
_SUFFIXES: dict[str, ReportFormat] = {
    ".html": "html",
    ".htm": "html",
    ".md": "markdown",
    ".markdown": "markdown",
    ".json": "json",
}
"""The first of a format is the one that its files get where nobody names them."""


def format_of(output: Path) -> ReportFormat:
    """The format that a file's suffix asks for; UserError where it asks for none."""
    if output.suffix not in _SUFFIXES:
        raise UserError(f"output {output}: ends in none of .html, .md and .json; rename it or pass --format")
    return _SUFFIXES[output.suffix]


def suffix_of(style: ReportFormat) -> str:
    """The usual suffix of a format's files."""
    return next(suffix for suffix, format_ in _SUFFIXES.items() if format_ == style)
