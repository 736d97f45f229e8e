"""Pages are self-contained, safe with any name, and readable without seeing them."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from parsed_page import Page
from saved_evaluation import FAIL, files, html

from robust_student.report.document.words import number


@pytest.mark.parametrize(
    ("value", "form", "text"),
    [(-5.0, "g", "\u22125"), (0.138543, ".3g", "0.139"), (12.0, "+.1f", "+12.0"), (-0.01, "+.1f", "0.0")],
)
def test_numbers_are_written_for_people(value: float, form: str, text: str) -> None:
    assert number(value, form) == text


def test_names_from_users_are_only_text(page: Callable[..., Page]) -> None:
    hostile = '"><img src=x onerror="alert(1)"><script>alert(2)</script>$\\frac{'
    content = files({"teacher": "_x$y$", "kd": "kd", "robust": hostile}, verdicts={"robust": FAIL})
    content["evaluation.json"]["classes"] = [hostile, hostile]
    content["evaluation.json"]["provenance"]["data"] = hostile
    content["evaluation.json"]["provenance"]["settings"][hostile] = hostile
    content["gallery.json"][0]["levels"][0]["png"] = '"><script>alert(3)</script>'
    for model in content["evaluation.json"]["models"].values():
        model["history"][0]["terms"][hostile] = 1.0
    made = page(content)
    assert "script" not in made.tags
    assert not [name for _, name, _ in made.attributes if name.startswith("on")]
    assert made.tags.count("img") == 5
    assert hostile in made.text["sentence"] and hostile in made.text["provenance"]


def test_nothing_is_fetched_and_ids_are_unique(tmp_path: Path) -> None:
    text = html(tmp_path, files())
    made = Page(text)
    assert not {"script", "link", "iframe", "object", "embed", "base"} & set(made.tags)
    loaded = [value for _, name, value in made.attributes if name in ("src", "href", "xlink:href", "srcset", "data")]
    assert loaded and all(value.startswith(("#", "data:image/png;base64,")) for value in loaded)
    assert "@import" not in text and all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", text))
    addresses = {value for _, name, value in made.attributes if "//" in value and not name.startswith("xmlns")}
    assert not addresses and not re.search(r"https?://(?!www\.w3\.org/(2000/svg|1999/xlink)\")", text)
    ids = [value for _, name, value in made.attributes if name == "id"]
    assert len(ids) == len(set(ids)) > 100
    targets = {value[1:] for _, name, value in made.attributes if name in ("href", "xlink:href") and value[0] == "#"}
    assert targets <= set(ids)


def test_every_figure_and_table_has_words(page: Callable[..., Page]) -> None:
    made = page()
    labels = [value for tag, name, value in made.attributes if (tag, name) == ("div", "aria-label")]
    assert made.tags.count("table") == made.tags.count("caption") and made.tags.count("figure") == len(labels) + 2
    assert all(len(label) > 30 for label in labels) and ("html", "lang", "en") in made.attributes
