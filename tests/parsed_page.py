"""A page of the report, taken apart."""

from html.parser import HTMLParser


class Page(HTMLParser):
    """A parsed page: tags, attributes, and the text and `<data>` values of every element that has an id."""

    VOID = frozenset({"meta", "img", "br", "link", "input"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.stack: list[tuple[str, str | None]] = []
        self.text: dict[str, str] = {}
        self.cells: list[list[list[float]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attributes.items()]
        if tag not in self.VOID:
            self.stack.append((tag, attributes.get("id")))
        if self.inside("models"):
            if tag == "tr":
                self.cells.append([])
            elif tag == "td":
                self.cells[-1].append([])
            elif tag == "data":
                self.cells[-1][-1].append(float(attributes["value"]))

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop()[0] == tag, f"unbalanced </{tag}>"

    def handle_data(self, data: str) -> None:
        for _, name in self.stack:
            if name is not None:
                self.text[name] = self.text.get(name, "") + data.replace("\u00a0", " ")

    def inside(self, name: str) -> bool:
        """Whether the element with this id is open."""
        return any(identifier == name for _, identifier in self.stack)

    def words(self, name: str) -> str:
        """Text of the element with this id, on one line."""
        return " ".join(self.text[name].split())
