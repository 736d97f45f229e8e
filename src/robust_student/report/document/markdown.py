"""A document in GitHub's Markdown, without its figures; names from users cannot become markup."""

import re
from collections.abc import Sequence

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
    Legend,
    Mark,
    Paragraph,
    Pictures,
    Section,
    Small,
    Table,
    Text,
    Tiles,
)
from robust_student.report.document.plain import plain_text


def as_markdown(document: Document) -> str:
    """The Markdown of a document."""
    blocks = [f"# {_escaped(document.title)}", *_blocks(document.lead)]
    for section in document.sections:
        blocks += _section(section)
    return "\n\n".join(blocks) + "\n"


def _section(section: Section) -> list[str]:
    return [f"## {_escaped(section.title)}", *_blocks(section.blocks)]


def _blocks(blocks: Sequence[Block]) -> list[str]:
    return [line for block in blocks for line in _block(block)]


def _block(block: Block) -> list[str]:
    match block:
        case Paragraph(text, "warn" | "fail"):
            return [f"> {_text(text)}"]
        case Paragraph(text):
            return [_sentence(text)]
        case Heading(text):
            return [f"### {_escaped(text)}"]
        case Findings(items):
            return ["\n".join(f"- {_sentence(item)}" for item in items)] if items else []
        case Table():
            return [_sentence(block.caption), _table(block)]
        case Pictures(title, table):
            return [f"### {_escaped(title)}", *_block(table)]
        case Figure() | Legend():
            return []
        case Facts(pairs, "terms"):
            return ["\n".join(f"- **{_text(name).strip()}**: {_text(words)}" for name, words in pairs)]
        case Facts(pairs):
            return (
                [_rows([["Fact", "Value"], *([_text(name), _text(value)] for name, value in pairs)])] if pairs else []
            )
        case Tiles(tiles):
            names = [name for name, _ in tiles[0].figures] if tiles else []
            lines: list[list[Text]] = [["", *names, "Difference"]]
            lines += [[tile.title, *(figure for _, figure in tile.figures), tile.difference] for tile in tiles]
            return [_rows([list(map(_text, line)) for line in lines])] if tiles else []
        case Grid(blocks):
            return _blocks(blocks)
        case Folded(summary, blocks):
            return ["<details>", f"<summary>{_escaped(summary)}</summary>", *_blocks(blocks), "</details>"]
    raise TypeError(f"no Markdown for {type(block).__name__}")


def _text(text: Text) -> str:
    """A piece of text on one line, with Markdown's marks for what stands out."""
    if isinstance(text, tuple):
        return "".join(map(_text, text))
    match text:
        case Bold(inner):
            return f"**{_text(inner)}**"
        case Mark("role", inner):
            return f" ({_text(inner)})"
        case Mark(_, inner):
            return _text(inner)
        case Small(pieces):
            return " ".join(map(_text, pieces))
    return _escaped(plain_text(text))


def _sentence(text: Text) -> str:
    """Text that begins a line and yet begins no list, heading or quotation."""
    return re.sub(r"^([-+>#]|\d+(?=[.)] ))", r"\\\1", _text(text))


def _escaped(text: str) -> str:
    """Words on one line in which Markdown sees no markup."""
    line = re.sub(r"\s+", " ", text)
    return re.sub(r"([\\`*_|]|<(?=[A-Za-z/!?])|\](?=[(\[]))", r"\\\1", line)


def _table(table: Table) -> str:
    lines = [list(map(_text, table.head))]
    for group in table.bodies:
        lines += [[f"**{_text(group.title)}**", *([""] * (len(table.head) - 1))]] if group.title else []
        lines += [list(map(_text, row)) for row in group.rows]
    return _rows(lines)


def _rows(lines: Sequence[Sequence[str]]) -> str:
    """Lines of cells as a table; the first is its head."""
    marked = [lines[0], ["---"] * len(lines[0]), *lines[1:]]
    return "\n".join("| " + " | ".join(cell.strip() for cell in line) + " |" for line in marked)
