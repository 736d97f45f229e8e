"""A document as one HTML page that needs nothing else; every value is escaped; the same document, the same bytes."""

from collections.abc import Iterable, Mapping, Sequence
from importlib import resources

from markupsafe import Markup, escape

from robust_student.report.document.blocks import (
    Bar,
    Block,
    Bold,
    Document,
    Facts,
    Figure,
    Findings,
    Folded,
    Grid,
    Group,
    Heading,
    Image,
    Inline,
    Legend,
    Link,
    Mark,
    Paragraph,
    Pictures,
    Section,
    Shade,
    Small,
    Subscript,
    Swatch,
    Table,
    Text,
    Tile,
    Tiles,
    Value,
)
from robust_student.report.document.figures import BAND, SIDES, Style

_CLASSES = {
    "name": "who",
    "more": "note",
    "better": "sign better",
    "worse": "sign worse",
    "unsettled": "sign",
    "pass": "badge pass",
    "warn": "badge warn",
    "fail": "badge fail",
}
"""Classes of the style sheet by kind of mark; the other kinds are called alike."""
_LOOKS = {
    "plain": "matrix",
    "dense": "document",
    "stacked": "matrix stacked",
    "cards": "compare",
    "heat": "heat",
    "bars": "bars",
    "pictures": "",
}
"""Classes of the style sheet by look of a table."""
_FACTS = {"plain": "facts", "long": "settings", "terms": "kinds"}
_SWATCHES = {
    "band": f'<path d="M0 0h28v10H0z" fill="{BAND}"/>',
    "estimated": f'<path d="M5 7h.01M14 4h.01M23 2h.01" stroke="{SIDES["estimated"][0]}" stroke-width="2.6" '
    'stroke-linecap="round"/>',
    "sampled": f'<path d="M2 8h6M11 5h6M20 2h6" stroke="{SIDES["sampled"][0]}" stroke-width="1.5"/>',
    "certified": f'<path d="M0 5h28" stroke="{SIDES["certified"][0]}" stroke-width="2"/>',
    "attack": f'<path d="M0 5h28" stroke="{SIDES["attack"][0]}" stroke-width="2"/>',
}
_PAGE = Markup("""\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
<main>
<header>
<h1>{title}</h1>
{lead}
</header>
{body}
</main>
</body>
</html>
""")


def as_html(document: Document) -> str:
    """The page of a document."""
    style = resources.files("robust_student.report.document").joinpath("style.css").read_text(encoding="utf-8")
    parts = _parts(document.sections)
    body = []
    for number, part in enumerate(parts):
        following = parts[number + 1][0] if number + 1 < len(parts) else None
        body += [*map(_section, part[:1])] if part[0].summary else []
        rest = part[1:] if part[0].summary else part
        body += [_navigation(rest, following, part[0].title if number else "Sections"), *map(_section, rest)]
    return str(_PAGE.format(title=document.title, style=Markup(style), lead=_blocks(document.lead), body=_lines(body)))


def _parts(sections: Sequence[Section]) -> list[list[Section]]:
    """The sections, a new list at each that sums up those below it."""
    parts: list[list[Section]] = []
    for section in sections:
        if section.summary or not parts:
            parts.append([])
        parts[-1].append(section)
    return parts


def _navigation(sections: Iterable[Section], following: Section | None, label: str) -> Markup:
    """Links to the sections of a part, and to the part that follows."""
    named = [*sections, *([following] if following else [])]
    links = Markup(" ").join(Markup('<a href="#{}">{}</a>').format(s.anchor, s.short or s.title) for s in named)
    return Markup('<nav aria-label="{}">{}</nav>').format(label, links)


def _section(section: Section) -> Markup:
    look = f"verdict {section.summary}".removesuffix(" plain") if section.summary else ""
    return Markup('<section{} id="{}">\n<h2>{}</h2>\n{}\n</section>').format(
        _class(look), section.anchor, section.title, _blocks(section.blocks)
    )


def _blocks(blocks: Sequence[Block]) -> Markup:
    return _lines(map(_block, blocks))


def _block(block: Block) -> Markup:
    match block:
        case Paragraph(text, look, anchor):
            return _paragraph(text, look, anchor)
        case Heading(text, ""):
            return Markup("<h3>{}</h3>").format(text)
        case Heading(text, color):
            return Markup('<h3 class="model" style="border-color:{}">{}</h3>').format(color, text)
        case Findings(items, anchor):
            lines = Markup("").join(Markup("<li>{}</li>").format(_text(item)) for item in items)
            return Markup('<ul class="words"{}>{}</ul>').format(_id(anchor), lines)
        case Table():
            return Markup('<div class="scroll">{}</div>').format(_table(block))
        case Figure(title, draw, words, key):
            plot = Markup('<div class="plot" role="img" aria-label="{}">{}</div>').format(words, Markup(draw()))
            return Markup("<figure><h3>{}</h3>{}\n{}</figure>").format(title, _key(key) if key else "", plot)
        case Pictures(title, table):
            return Markup("<figure><h3>{}</h3>\n{}</figure>").format(title, _table(table))
        case Legend(styles, swatches):
            marks = [(Markup(_SWATCHES[side]), words) for side, words in swatches]
            return _key(styles) if styles else _swatch_list(marks)
        case Facts(pairs, look):
            return _facts(pairs, look)
        case Tiles(tiles):
            return Markup('<div class="tiles">\n{}\n</div>').format(_lines(map(_tile, tiles)))
        case Grid(blocks):
            gallery = " gallery" if any(isinstance(inner, Pictures) for inner in blocks) else ""
            return Markup('<div class="grid{}">\n{}\n</div>').format(gallery, _blocks(blocks))
        case Folded(summary, blocks, unfolded):
            return Markup("<details{}><summary>{}</summary>\n{}</details>").format(
                " open" if unfolded else "", summary, _blocks(blocks)
            )
    raise TypeError(f"no HTML for {type(block).__name__}")


def _text(text: Text) -> Markup:
    if isinstance(text, tuple):
        return Markup("").join(map(_text, text))
    return _inline(text) if isinstance(text, Inline) else escape(text)


def _inline(inline: Inline) -> Markup:
    match inline:
        case Value(value, text):
            return Markup('<data value="{}">{}</data>').format(value, text)
        case Bold(text):
            return Markup("<b>{}</b>").format(_text(text))
        case Small(pieces):
            spans = Markup(" ").join(Markup("<span>{}</span>").format(_text(piece)) for piece in pieces)
            return Markup("<small>{}</small>").format(spans)
        case Mark(kind, text):
            return Markup('<span class="{}">{}</span>').format(_CLASSES.get(kind, kind), _text(text))
        case Link(section, text):
            return Markup('<a href="#{}">{}</a>').format(section, text)
        case Subscript(text):
            return Markup("<sub>{}</sub>").format(text)
        case Swatch(side):
            return _svg(Markup(_SWATCHES[side]))
        case Bar(share, color):
            return Markup('<span class="bar" style="width:{}%;background:{}"></span>').format(
                round(100 * share, 1), color
            )
        case Shade(value):
            return _inline(value)
        case Image(png, alt):
            return Markup('<img alt="{}" src="data:image/png;base64,{}">').format(alt, png)
    raise TypeError(f"no HTML for {type(inline).__name__}")


def _paragraph(text: Text, look: str, anchor: str) -> Markup:
    if look in ("warn", "fail"):
        return Markup('<div class="alarm {}"{} role="note"><p>{}</p></div>').format(look, _id(anchor), _text(text))
    return Markup("<p{}{}>{}</p>").format(_class("note" if look == "note" else ""), _id(anchor), _text(text))


def _table(table: Table) -> Markup:
    head, bodies = [_row(table.head, table, "th", ' scope="col"')], table.bodies
    if table.look == "pictures":
        head += [_row(bodies[0].rows[0], table, "td", "")]
        bodies = [Group("", bodies[0].rows[1:])]
    return Markup("<table{}><caption>{}</caption>\n<thead>{}</thead>{}</table>").format(
        _class(_LOOKS[table.look]), _text(table.caption), _lines(head), _lines(_body(group, table) for group in bodies)
    )


def _body(group: Group, table: Table) -> Markup:
    title = Markup('<tr class="group"><th scope="rowgroup" colspan="{}">{}</th></tr>\n')
    return Markup("<tbody>{}{}\n</tbody>").format(
        title.format(len(table.head), _text(group.title)) if group.title else "",
        _lines(_row(row, table) for row in group.rows),
    )


def _row(cells: Sequence[Text], table: Table, tag: str = "", attributes: str = "") -> Markup:
    """A row: of one kind of cell where `tag` says which, else a heading and the cells that it heads."""
    if tag:
        rendered = [Markup("<{0}{1}>{2}</{0}>").format(tag, Markup(attributes), _text(cell)) for cell in cells]
    else:
        rendered = [Markup('<th scope="row">{}</th>').format(_text(cells[0]))]
        rendered += [_cell(cell, title, table) for cell, title in zip(cells[1:], table.head[1:], strict=True)]
    return Markup("<tr>{}</tr>").format(Markup("").join(rendered))


def _cell(cell: Text, title: Text, table: Table) -> Markup:
    if isinstance(cell, Shade):
        shade = cell.value.value if cell.share is None else cell.share
        return Markup('<td style="{}"{}>{}</td>').format(
            _heat(shade), _attribute("title", cell.more), _inline(cell.value)
        )
    if table.look == "cards":
        return Markup('<td data-label="{}"><span>{}</span></td>').format(_text(title).striptags(), _text(cell))
    return Markup("<td>{}</td>").format(_text(cell))


def _tile(tile: Tile) -> Markup:
    pairs = Markup("").join(
        Markup("<dt>{}</dt><dd>{}</dd>").format(name, _text(figure)) for name, figure in tile.figures
    )
    return Markup('<div class="tile"><h3>{}</h3>\n<dl>{}</dl>\n<p>{}</p></div>').format(
        tile.title, pairs, _text(tile.difference)
    )


def _facts(pairs: Sequence[tuple[Text, Text]], look: str) -> Markup:
    line = Markup("<div><dt>{}</dt><dd>{}</dd></div>" if look == "long" else "<dt>{}</dt><dd>{}</dd>")
    lines = Markup("").join(line.format(_text(name), _text(value)) for name, value in pairs)
    return Markup('<dl class="{}">{}</dl>').format(_FACTS[look], lines)


def _key(styles: Mapping[str, Style]) -> Markup:
    return _swatch_list(
        (
            Markup(
                '<path d="M0 5h28" stroke="{}" stroke-width="{}" stroke-dasharray="{}"/>'
                '<path d="{}" fill="{}" stroke="none"/>'
            ).format(style.color, style.width, style.stroke, style.path, style.color),
            name,
        )
        for name, style in styles.items()
    )


def _swatch_list(entries: Iterable[tuple[Markup, str]]) -> Markup:
    lines = (Markup("<li>{}<span>{}</span></li>").format(_svg(paths), words) for paths, words in entries)
    return Markup('<ul class="key">{}</ul>').format(_lines(lines))


def _svg(paths: Markup) -> Markup:
    return Markup('<svg viewBox="0 0 28 10" aria-hidden="true">{}</svg>').format(paths)


def _heat(share: float) -> str:
    """Colours of a heat map's cell as CSS: white for 0, dark blue for 1, and text that stays readable on it."""
    share = min(max(share, 0.0), 1.0)
    red, green, blue = (round(255 + share * (end - 255)) for end in (0, 78, 140))
    return f"background:rgb({red},{green},{blue});color:{'#fff' if share > 0.7 else '#1b1f24'}"


def _class(names: str) -> Markup:
    return _attribute("class", names)


def _id(anchor: str) -> Markup:
    return _attribute("id", anchor)


def _attribute(name: str, value: str) -> Markup:
    """An attribute with a space before it; nothing where the value is empty."""
    return Markup(' {}="{}"').format(name, value) if value else Markup("")


def _lines(pieces: Iterable[Markup]) -> Markup:
    return Markup("\n").join(pieces)
