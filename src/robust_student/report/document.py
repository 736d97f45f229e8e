"""A document of headed sections with sentences and tables, from which HTML and Markdown are written alike."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Table:
    """Cells as text; the first of each row names it."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Section:
    """A heading, sentences below it, a list of findings, tables."""

    title: str
    words: Sequence[str] = ()
    findings: Sequence[str] = ()
    tables: Sequence[Table] = ()


@dataclass(frozen=True)
class Document:
    """A title, sentences, sections."""

    title: str
    words: Sequence[str] = ()
    sections: Sequence[Section] = field(default=())


def as_markdown(document: Document) -> str:
    """The document in GitHub's Markdown; names from users cannot become markup."""
    blocks = [f"# {plain(document.title)}", *map(_paragraph, document.words)]
    for section in document.sections:
        blocks += [f"## {plain(section.title)}", *map(_paragraph, section.words)]
        blocks += ["\n".join(f"- {_paragraph(finding)}" for finding in section.findings)] if section.findings else []
        for table in section.tables:
            blocks += [_paragraph(table.caption), _table(table)]
    return "\n\n".join(blocks) + "\n"


def plain(text: str) -> str:
    """Text on one line in which Markdown sees no markup."""
    line = " ".join(text.replace("\u00a0", " ").split())
    return re.sub(r"([\\`*_|]|<(?=[A-Za-z/!?])|\](?=[(\[]))", r"\\\1", line)


def _paragraph(text: str) -> str:
    """Text that begins a line and yet begins no list, heading or quotation."""
    return re.sub(r"^([-+>#]|\d+(?=[.)] ))", r"\\\1", plain(text))


def _table(table: Table) -> str:
    lines = [table.head, ["---"] * len(table.head), *table.rows]
    return "\n".join(
        "| " + " | ".join(cell if number == 1 else plain(cell) for cell in line) + " |"
        for number, line in enumerate(lines)
    )
