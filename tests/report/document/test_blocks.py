"""Every kind of block and of text is shown by every format, and names from users stay text in all of them."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from parsed_page import Page

from robust_student.report.document import blocks as b
from robust_student.report.document.figures import model_style
from robust_student.report.document.html import as_html
from robust_student.report.document.markdown import as_markdown
from robust_student.report.document.plain import as_values, plain_text

HOSTILE = '<script>alert("x")</script>'
TEXT: tuple[Any, ...] = (
    *("words ", b.Value(0.5, "50\u00a0%"), b.Bold(("bold", b.Subscript("y"))), b.Small(["[1, 2]", "n = 3"])),
    *(b.Mark("role", "baseline"), b.Mark("better", "gains"), b.Link("first", "a link"), b.Swatch("band")),
    *(b.Bar(0.5, "#000"), b.Shade(b.Value(0.25, "25"), "[1, 2]"), b.Image("cG5n", "a picture"), HOSTILE),
)
TABLE = b.Table("caption", ["head", "cell"], [["row", TEXT]], "cards", [b.Group("group", [["below", "it"]])])
BLOCKS: list[b.Block] = [
    *(b.Paragraph(TEXT), b.Paragraph("note", "note"), b.Paragraph("alarm", "fail"), b.Heading("heading", "#000")),
    *(b.Findings(["finding"]), TABLE, b.Legend({HOSTILE: model_style(0)}), b.Legend(swatches=[("band", "between")])),
    *(b.Facts([("name", "fact")]), b.Facts([("term", "meaning")], "terms"), b.Facts([("a.b", "1")], "long")),
    *(b.Tiles([b.Tile("tile", [("kd", "figure")], "difference")]), b.Folded("folded", [b.Paragraph("inside")])),
    b.Grid([b.Figure("figure", lambda: "<svg></svg>", "what is seen", {HOSTILE: model_style(1)})]),
    b.Grid(
        [b.Pictures("pictures", b.Table("shown", ["", "x"], [["", b.Image("cG5n", "alt")], ["kd", "1"]], "pictures"))]
    ),
]
DOCUMENT = b.Document("title", [b.Paragraph("lead")], [b.Section("first", "first section", BLOCKS)])


def inside(shown: list[b.Block]) -> Iterator[b.Block]:
    for block in shown:
        yield block
        yield from inside(list(getattr(block, "blocks", [])))


def test_every_kind_is_tried_here() -> None:
    assert {type(block) for block in inside(BLOCKS)} == set(b.Block.__subclasses__())
    pieces = {type(piece) for piece in TEXT if not isinstance(piece, str)} | {b.Subscript}
    assert pieces == set(b.Inline.__subclasses__())


def test_a_page_shows_every_kind() -> None:
    page = Page(as_html(DOCUMENT))
    text = page.words("first")
    for words in ("50 %", "boldy", "a link", "caption", "group", "below", "finding", "fact", "meaning", "difference"):
        assert words in text, words
    assert HOSTILE in text and "script" not in page.tags and page.tags.count("svg") == 6
    assert ("td", "data-label", "cell") in page.attributes and ("div", "aria-label", "what is seen") in page.attributes


def test_markdown_shows_every_kind_but_drawings() -> None:
    text = as_markdown(DOCUMENT)
    assert "words 50 %**bold\\_y**[1, 2] n = 3 (baseline)gainsa link25 [1, 2]a picture\\<script>" in text
    for line in (
        "> alarm",
        "### heading",
        "- finding",
        "| **group** |  |",
        "| below | it |",
        "| name | fact |",
        "inside",
    ):
        assert f"\n{line}\n" in text, line
    assert "- **term**: meaning" in text and "| tile | figure | difference |" in text and "<svg" not in text


def test_plain_values_show_every_kind_but_drawings() -> None:
    shown = json.loads(json.dumps(as_values(DOCUMENT)))
    (section,) = shown["sections"]
    kinds = [block["kind"] for block in section["blocks"]]
    assert set(kinds) == {"paragraph", "note", "alarm", "heading", "findings", "table", "facts", "tiles", "figure"}
    assert section["blocks"][0]["text"].endswith(HOSTILE) and "cG5n" not in json.dumps(shown)
    assert {"group": "group", "cells": ["below", "it"]} in section["blocks"][kinds.index("table")]["rows"]
    assert plain_text(b.Value(1.0, "1\u00a0dB")) == "1 dB"


@pytest.mark.parametrize("show", [as_html, as_markdown, as_values])
def test_a_block_that_no_format_knows_is_an_error_of_the_programmer(show: Any) -> None:
    with pytest.raises(TypeError, match="for Block"):
        show(b.Document("title", [b.Block()], []))
