"""Every page of the documentation: its code runs, its commands and flags exist, its links lead somewhere."""

import inspect
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import saved_certificates
import saved_evaluation
import torch
from pages import PAGES, ROOT, Block, blocks, commands, prose
from torch.utils.data import TensorDataset

from robust_student import load_data
from robust_student.cli.arguments import parse
from robust_student.cli.flags import names_of
from robust_student.cli.main import COMMANDS, main
from robust_student.models.registry import build

FLAGS = {"--help", "--print-completion"}.union(*map(names_of, COMMANDS.values()))
FOREIGN = ("torchrun", "pip install", "python -m pytest", "make ", "git ")
"""How commands of other programs begin; flags of `benchmarks/` belong to these as well."""


def certification_page() -> dict[str, Any]:
    """An untrained network and a few digits, with the names that the page takes for granted."""
    torch.manual_seed(0)
    data = load_data("digits")
    model = build("linear", data.shape, len(data.classes)).eval()
    inputs, labels = data.test.floats(slice(3)), data.test.labels[:3]
    return {"model": model, "data": data, "inputs": inputs, "labels": labels, "teacher_logits": model(inputs)}


def data_page() -> dict[str, Any]:
    """Two small datasets of random images."""
    torch.manual_seed(0)
    images, labels = torch.rand(20, 1, 8, 8), torch.arange(20) % 2
    return {"train_set": TensorDataset(images, labels), "test_set": TensorDataset(images[:6], labels[:6])}


GIVEN: dict[str, Callable[[], dict[str, Any]]] = {"certification.md": certification_page, "data.md": data_page}
"""What a page takes for granted before its first block of Python, made tiny."""
WITH_PYTHON = [page for page in PAGES if blocks(page, "python") and page.name != "README.md"]
"""The README's blocks are run by tests/test_readme.py, each with a test of its own."""
RUN = {
    "README.md": "tests/test_readme.py, on tiny photos",
    "certification.md": "its reports, below",
}
"""Pages whose commands a test runs, and where."""
ONLY_PARSED = {
    "corruptions.md": "needs three trained models and a published set",
    "data.md": "needs a hundred shards and a data set of the Hub",
    "models.md": "needs ImageNet weights of a library",
    "results.md": "needs 60,000 images and hours",
    "scale.md": "needs two nodes and GPUs",
}
"""Pages whose commands are parsed and not run, and why."""


@pytest.mark.parametrize("page", WITH_PYTHON, ids=lambda page: page.name)
def test_the_python_of_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Block after block, in one namespace and an empty directory."""
    monkeypatch.chdir(tmp_path)
    names = GIVEN.get(page.name, dict)()
    for block in blocks(page, "python"):
        lines_before = "\n" * (block.line - 1)
        exec(compile(lines_before + block.code, str(page), "exec"), names)
    for test in [value for name, value in names.items() if name.startswith("test_") and inspect.isfunction(value)]:
        test()  # a page that shows a test shows one that passes


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=lambda page: page.name)
def test_the_commands_of_a_page_parse(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the parser that the command line uses; files that they name, such as examples/mnist.yaml, are there."""
    monkeypatch.chdir(ROOT)
    for words in commands(page):
        assert type(parse(words, COMMANDS)) is COMMANDS[words[0]]


def test_commands_are_run_or_there_is_a_reason() -> None:
    assert {page.name for page in PAGES if commands(page)} == {*RUN, *ONLY_PARSED}


@pytest.mark.parametrize("script", sorted((ROOT / "examples").glob("*.sh")), ids=lambda script: script.name)
def test_the_commands_of_an_example_parse(script: Path, tmp_path: Path) -> None:
    """The shell runs the script; a program of the product's name notes what it is given."""
    program = tmp_path / "robust-student"
    program.write_text('#!/bin/sh\nfor word; do printf "%s\\037" "$word" >> given; done\necho >> given\n')
    program.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(["sh", str(script), "DIR", "out"], cwd=tmp_path, env={"PATH": path}, check=True, timeout=60)
    commands_given = [line.split("\037")[:-1] for line in (tmp_path / "given").read_text().splitlines()]
    assert [words[0] for words in commands_given][:3] == ["train", "distill", "distill"]
    for words in commands_given:
        assert type(parse(words, COMMANDS)) is COMMANDS[words[0]]


def test_the_report_commands_of_certification_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = {name: name for name in ("teacher", "kd", "robust")}
    saved_evaluation.folder(tmp_path / "EVALUATION", saved_evaluation.files(names))
    saved_evaluation.folder(tmp_path / "DIR", saved_certificates.files(names))
    page = ROOT / "docs" / "certification.md"
    reports = [words for words in commands(page) if words[0] == "report"]
    assert len(reports) == 2
    for words in reports:
        main(words)
    assert (tmp_path / "DIR" / "report.html").exists()
    assert (tmp_path / "EVALUATION" / "report-with-certificates.html").exists()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_stand_in_blocks_between_fences(page: Path) -> None:
    """So that the tests above see them."""
    assert not re.findall(r"^ {4,}(?:robust-student|torchrun) .*", prose(page), flags=re.MULTILINE)
    assert {block.language for block in blocks(page)} <= {"sh", "python", "json", "text", "yaml"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_flags_in_the_text_exist(page: Path) -> None:
    spans = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose(page))]
    ours = [span for span in spans if not span.startswith(FOREIGN) and "benchmarks/" not in span]
    assert {flag for span in ours for flag in re.findall(r"(?<!\S)--[a-z][\w.-]*\w", span)} <= FLAGS


LINED = [*PAGES, ROOT / "CHANGELOG.md", *sorted((ROOT / "examples").iterdir())]


@pytest.mark.parametrize("page", LINED, ids=lambda page: page.name)
def test_lines_are_short(page: Path) -> None:
    """At most 120 characters, but for rows of tables."""
    lines = page.read_text(encoding="utf-8").splitlines()
    assert [f"{k}: {line}" for k, line in enumerate(lines, 1) if len(line) > 120 and not line.startswith("|")] == []


def anchors(page: Path) -> set[str]:
    """What a link may name behind `#`: the page's headings as GitHub writes them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        place, _, anchor = target.partition("#")
        if place.startswith("https://"):
            continue
        there = page.parent / place if place else page
        assert there.exists(), target
        assert not anchor or anchor in anchors(there), target


def test_the_block_of_a_page_is_found_with_its_line(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Title\n\n```sh\nrobust-student demo \\\n  --seed 1  # quick\n```\n\ntext\n")
    assert blocks(page) == [Block("sh", "robust-student demo \\\n  --seed 1  # quick\n", 4)]
    assert commands(page) == [["demo", "--seed", "1"]]
    assert prose(page).splitlines() == ["# Title", "", "", "", "", "", "", "text"]
