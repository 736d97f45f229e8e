"""What a report is made of, whatever the format: sections of paragraphs, tables and figures, and the text in them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from robust_student.report.document.figures import Style

MarkKind = Literal[
    "name",
    "role",
    "more",
    "none",
    "whole",
    "prose",
    "better",
    "worse",
    "unsettled",
    "pass",
    "warn",
    "fail",
    "right",
    "wrong",
]
"""What a marked piece of text is: a model's name, its role, a gap, text in one line, prose in a narrow table, how a
difference came out, a masking verdict, a right or wrong answer."""
Side = Literal["certified", "attack", "sampled", "estimated", "band"]
"""What a swatch stands for in the figures of certificates."""
Look = Literal["plain", "dense", "stacked", "cards", "heat", "bars", "pictures"]
"""How a table is laid out; `cards` turns its rows into cards on a narrow screen."""


class Inline:
    """A piece of text that is more than words."""


class Block:
    """A part of a section; each format has a way to show each kind."""


Text: TypeAlias = str | Inline | tuple[Any, ...]
"""A piece of text, or several of them one after the other."""


@dataclass(frozen=True)
class Value(Inline):
    """A number as it was recorded, and how it is written for people."""

    value: float
    text: str


@dataclass(frozen=True)
class Bold(Inline):
    """Text that stands out."""

    text: Text


@dataclass(frozen=True)
class Small(Inline):
    """Pieces of secondary text, each kept in one line: an interval, a number of examples."""

    pieces: Sequence[Text]


@dataclass(frozen=True)
class Mark(Inline):
    """Text with a meaning of its own."""

    kind: MarkKind
    text: Text


@dataclass(frozen=True)
class Link(Inline):
    """Text that leads to a section."""

    section: str
    text: str


@dataclass(frozen=True)
class Subscript(Inline):
    """An index below the line."""

    text: str


@dataclass(frozen=True)
class Swatch(Inline):
    """How a side looks in the figures."""

    side: Side


@dataclass(frozen=True)
class Bar(Inline):
    """A share drawn as a bar; the number stands beside it."""

    share: float
    color: str


@dataclass(frozen=True)
class Shade(Inline):
    """A share as a cell of a heat map: white for 0, dark for 1; `more` is its interval."""

    value: Value
    more: str
    share: float | None = None
    """How dark the cell is, where the value is no share; None: as the value says."""


@dataclass(frozen=True)
class Image(Inline):
    """A picture as base64 of a PNG file, and what it shows."""

    png: str
    alt: str


@dataclass(frozen=True)
class Paragraph(Block):
    """Sentences; a note explains what stands above it, an alarm warns of it."""

    text: Text
    look: Literal["plain", "note", "warn", "fail"] = "plain"
    anchor: str = ""
    """Name of the paragraph's own, unique in the document."""


@dataclass(frozen=True)
class Heading(Block):
    """A heading below the section's; `color` is the model's that it is about."""

    text: str
    color: str = ""


@dataclass(frozen=True)
class Findings(Block):
    """A list of sentences."""

    items: Sequence[Text]
    anchor: str = ""


@dataclass(frozen=True)
class Group:
    """Rows of a table under a title of their own."""

    title: Text
    rows: Sequence[Sequence[Text]]


@dataclass(frozen=True)
class Table(Block):
    """Rows of cells, of which the first names the row; the first row of `pictures` holds the pictures."""

    caption: Text
    head: Sequence[Text]
    rows: Sequence[Sequence[Text]]
    look: Look = "plain"
    groups: Sequence[Group] = ()
    """Rows under titles, below `rows`."""

    @property
    def bodies(self) -> list[Group]:
        """Every row, group by group; rows without a title come first, under an empty one."""
        return [*([Group("", self.rows)] if self.rows or not self.groups else []), *self.groups]


@dataclass(frozen=True)
class Figure(Block):
    """A drawing, which only a page shows; `words` say what is to be seen, `key` whose line is whose."""

    title: str
    draw: Callable[[], str]
    """Makes the drawing as an <svg> element; called by formats that show it."""
    words: str
    key: Mapping[str, Style] | None = None


@dataclass(frozen=True)
class Pictures(Block):
    """A table whose first row is pictures, under a title of its own."""

    title: str
    table: Table


@dataclass(frozen=True)
class Legend(Block):
    """Whose line is whose in the figures below, or what a swatch stands for."""

    styles: Mapping[str, Style] | None = None
    swatches: Sequence[tuple[Side, str]] = ()


@dataclass(frozen=True)
class Facts(Block):
    """Names and what they are; `long`: many, in small print; `terms`: words that are explained."""

    pairs: Sequence[tuple[Text, Text]]
    look: Literal["plain", "long", "terms"] = "plain"


@dataclass(frozen=True)
class Tile:
    """One result at a glance: a figure each of two models, and the difference."""

    title: str
    figures: Sequence[tuple[str, Text]]
    difference: Text


@dataclass(frozen=True)
class Tiles(Block):
    """Results at a glance, side by side."""

    tiles: Sequence[Tile]


@dataclass(frozen=True)
class Grid(Block):
    """Blocks side by side where there is room."""

    blocks: Sequence[Block]


@dataclass(frozen=True)
class Folded(Block):
    """Blocks that are shown on demand."""

    summary: str
    blocks: Sequence[Block]
    unfolded: bool = False


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it."""

    anchor: str
    """Name that links lead to, unique in the document."""
    title: str
    blocks: Sequence[Block]
    short: str = ""
    """Title in the navigation; empty: the title."""
    summary: Literal["", "plain", "warn", "fail"] = ""
    """How a section looks that sums up those below it; empty: it sums up nothing."""


@dataclass(frozen=True)
class Document:
    """A title, blocks below it, sections."""

    title: str
    lead: Sequence[Block]
    sections: Sequence[Section]
