"""A document as plain values for JSON, without its drawings and pictures; text without markup."""

from collections.abc import Sequence
from typing import Any

from robust_student.report.document.blocks import (
    Block,
    Bold,
    Document,
    Facts,
    Figure,
    Findings,
    Folded,
    Grid,
    Heading,
    Image,
    Legend,
    Link,
    Mark,
    Paragraph,
    Pictures,
    Shade,
    Small,
    Subscript,
    Table,
    Text,
    Tiles,
    Value,
)


def as_values(document: Document) -> dict[str, Any]:
    """Title, lead and sections of a document; docs/results-format.md describes them."""
    sections = [
        {"id": section.anchor, "title": section.title, "blocks": _blocks(section.blocks)}
        for section in document.sections
    ]
    return {"title": document.title, "lead": _blocks(document.lead), "sections": sections}


def plain_text(text: Text) -> str:
    """Text as words alone, with ordinary spaces."""
    if isinstance(text, tuple):
        return "".join(map(plain_text, text))
    match text:
        case str():
            return text.replace("\u00a0", " ")
        case Value(_, words) | Link(_, words):
            return plain_text(words)
        case Bold(inner):
            return plain_text(inner)
        case Mark("role", inner):
            return f" ({plain_text(inner)})"
        case Mark(_, inner):
            return plain_text(inner)
        case Small(pieces):
            return " ".join(map(plain_text, pieces))
        case Subscript(index):
            return f"_{index}"
        case Shade(value, more):
            return f"{plain_text(value)} {more}".strip()
        case Image(_, alt):
            return alt
    return ""


def _blocks(blocks: Sequence[Block]) -> list[dict[str, Any]]:
    return [values for block in blocks for values in _block(block)]


def _block(block: Block) -> list[dict[str, Any]]:
    match block:
        case Paragraph(text, look):
            kind = {"plain": "paragraph", "note": "note"}.get(look, "alarm")
            return [{"kind": kind, "text": plain_text(text)}]
        case Heading(text):
            return [{"kind": "heading", "text": text}]
        case Findings(items):
            return [{"kind": "findings", "items": list(map(plain_text, items))}]
        case Table():
            return [_table(block)]
        case Figure(title, _, words):
            return [{"kind": "figure", "title": plain_text(title), "words": plain_text(words)}]
        case Pictures(title, table):
            return [{"kind": "heading", "text": title}, _table(table)]
        case Legend():
            return []
        case Facts(pairs):
            return [{"kind": "facts", "pairs": [[plain_text(name), plain_text(value)] for name, value in pairs]}]
        case Tiles(tiles):
            rows = [
                [
                    tile.title,
                    *(f"{name}: {plain_text(figure)}" for name, figure in tile.figures),
                    plain_text(tile.difference),
                ]
                for tile in tiles
            ]
            return [{"kind": "tiles", "rows": rows}]
        case Grid(blocks):
            return _blocks(blocks)
        case Folded(summary, blocks):
            return [{"kind": "heading", "text": summary}, *_blocks(blocks)]
    raise TypeError(f"no plain values for {type(block).__name__}")


def _table(table: Table) -> dict[str, Any]:
    rows = [
        {"group": plain_text(group.title), "cells": list(map(plain_text, row))}
        for group in table.bodies
        for row in group.rows
    ]
    head = list(map(plain_text, table.head))
    return {"kind": "table", "caption": plain_text(table.caption), "head": head, "rows": rows}
