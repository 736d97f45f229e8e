"""A new section is one row of a table of sections, and stands in every format."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from parsed_page import Page
from saved_evaluation import files, save, written

from robust_student.cli.main import main
from robust_student.report import contents
from robust_student.report.document.blocks import Paragraph, Section, Table, Value
from robust_student.report.evidence.evaluation import Evidence, read_evaluation


def toy(shown: Any) -> Section:
    """What a contributor writes: a function from what was read to a section."""
    names = shown.names if isinstance(shown, Evidence) else list(shown.evaluations)
    table = Table(
        "Its table.", ["Name", "Letters"], [[name, Value(float(len(name)), str(len(name)))] for name in names]
    )
    return Section("toy", "A toy section", [Paragraph("Its words."), table])


def check_toy(write: Callable[[str], str], name: str, letters: int) -> None:
    page, text, shown = Page(write("html")), write("md"), json.loads(write("json"))
    assert page.words("toy").startswith("A toy section Its words. Its table. NameLetters")
    assert f"{name}{letters}" in page.words("toy") and ("a", "href", "#toy") in page.attributes
    assert "## A toy section\n\nIts words.\n\nIts table.\n\n| Name | Letters |\n" in text
    assert f"| {name} | {letters} |" in text
    (section,) = [section for section in shown["sections"] if section["id"] == "toy"]
    words, table = section["blocks"]
    assert section["title"] == "A toy section" and words == {"kind": "paragraph", "text": "Its words."}
    assert table["head"] == ["Name", "Letters"] and [name, str(letters)] in [row["cells"] for row in table["rows"]]


def test_a_section_of_one_row_stands_in_every_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, files())
    assert "toy" not in written(tmp_path, "html")
    monkeypatch.setattr(contents, "EVALUATION", (*contents.EVALUATION, toy))
    check_toy(lambda suffix: written(tmp_path, suffix), "robust", 6)


def test_so_does_one_on_several_evaluations(two: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contents, "COMPARISON", (toy, *contents.COMPARISON))

    def write(suffix: str) -> str:
        output = two[0] / f"comparison.{suffix}"
        main(["report", *map(str, two), "--compare", "--output", str(output)])
        return output.read_text()

    check_toy(write, "second", 6)


def test_sections_have_names_of_their_own_and_nothing_to_say_is_no_section(tmp_path: Path) -> None:
    content = files()
    del content["gallery.json"]
    shown = contents.document(read_evaluation(save(tmp_path, content)))
    anchors = [section.anchor for section in shown.sections]
    assert len(set(anchors)) == len(anchors) < len(contents.EVALUATION)
    assert not {"worst", "examples", "corruptions"} & set(anchors)
