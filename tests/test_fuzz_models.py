"""Damaged models and evidence are read or refused in one line, quickly and within bounded memory."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from fuzzing import EDITS, SEVERAL, VALUES, Edit, damaged, read_or_refused
from hypothesis import given
from hypothesis import strategies as st
from spoiled import EVALUATED, weight_bytes
from torch import nn

from robust_student.cli.main import main
from robust_student.models.run_directory import load
from robust_student.models.weights import load_weights
from robust_student.report.write import write_report


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A working directory with a model and an evaluation of it."""
    root, before = tmp_path_factory.mktemp("fuzz"), Path.cwd()
    os.chdir(root)
    main(["train", "--data", "digits", "--model", "mlp:8", "--output", "teacher", "--epochs", "1", "--device", "cpu"])
    main(EVALUATED)
    yield root
    os.chdir(before)


def test_damaged_weights_of_a_run_are_read_or_refused(place: Path) -> None:
    """Under the checksum that belongs to them, so that only their content can give them away."""
    content = Path("teacher/model.safetensors").read_bytes()

    @SEVERAL
    @given(EDITS, st.booleans())
    def check(edits: list[Edit], header: bool) -> None:
        edits = [(share * (0.2 if header else 1), gone, come) for share, gone, come in edits]
        weight_bytes(damaged(content, edits))()
        read_or_refused(lambda: load("teacher"))

    try:
        check()
    finally:
        weight_bytes(content)()


@pytest.mark.parametrize("name", ["model.json", "metrics.jsonl"])
def test_a_damaged_file_of_a_run_is_read_or_refused(name: str, place: Path) -> None:
    path = Path("teacher") / name
    content = path.read_bytes()

    @SEVERAL
    @given(EDITS)
    def check(edits: list[Edit]) -> None:
        path.write_bytes(damaged(content, edits))
        read_or_refused(lambda: load("teacher"))

    try:
        check()
    finally:
        path.write_bytes(content)


@pytest.mark.parametrize("name", ["rows.jsonl", "summary.json", "evaluation.json", "gallery.json"])
def test_damaged_evidence_is_reported_or_refused(name: str, place: Path) -> None:
    path = Path("evaluation") / name
    content = path.read_bytes()

    @SEVERAL
    @given(EDITS)
    def check(edits: list[Edit]) -> None:
        path.write_bytes(damaged(content, edits))
        read_or_refused(lambda: write_report(Path("evaluation"), Path("page.json"), style="json"))

    try:
        check()
    finally:
        path.write_bytes(content)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_a_damaged_state_dict_is_read_or_refused(legacy: bool, tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    network = nn.Linear(4, 2)
    torch.save(network.state_dict(), path, _use_new_zipfile_serialization=not legacy)
    content = path.read_bytes()

    @SEVERAL
    @given(EDITS)
    def check(edits: list[Edit]) -> None:
        path.write_bytes(damaged(content, edits))
        read_or_refused(lambda: load_weights(network, path))

    check()


def replaced(value: Any) -> st.SearchStrategy[Any]:
    """A JSON value in which one part, at any depth, is replaced by something else."""
    here = VALUES.map(lambda new: new)
    if isinstance(value, dict) and value:
        deeper = st.sampled_from(sorted(value)).flatmap(
            lambda name: replaced(value[name]).map(lambda new: value | {name: new})
        )
        gone = st.sampled_from(sorted(value)).map(lambda name: {k: v for k, v in value.items() if k != name})
        return deeper | deeper | gone | here
    if isinstance(value, list) and value:
        within = st.integers(0, len(value) - 1).flatmap(
            lambda k: replaced(value[k]).map(lambda new: [*value[:k], new, *value[k + 1 :]])
        )
        return within | within | here
    return here


@pytest.mark.parametrize("name", ["summary.json", "evaluation.json", "gallery.json"])
def test_evidence_with_a_strange_value_is_reported_or_refused(name: str, place: Path) -> None:
    path = Path("evaluation") / name
    content = path.read_text()

    @SEVERAL
    @given(replaced(json.loads(content)))
    def check(value: Any) -> None:
        path.write_text(json.dumps(value))
        read_or_refused(lambda: write_report(Path("evaluation"), Path("page.md"), style="markdown"))

    try:
        check()
    finally:
        path.write_text(content)


def test_rows_with_a_strange_value_are_reported_or_refused(place: Path) -> None:
    path = Path("evaluation/rows.jsonl")
    content = path.read_text()
    lines = content.splitlines()

    @SEVERAL
    @given(st.integers(0, len(lines) - 1).flatmap(lambda k: st.tuples(st.just(k), replaced(json.loads(lines[k])))))
    def check(change: tuple[int, Any]) -> None:
        path.write_text("\n".join([*lines[: change[0]], json.dumps(change[1]), *lines[change[0] + 1 :]]) + "\n")
        read_or_refused(lambda: write_report(Path("evaluation"), Path("page.json"), style="json"))

    try:
        check()
    finally:
        path.write_text(content)


def test_a_card_with_a_strange_value_is_read_or_refused(place: Path) -> None:
    path = Path("teacher/model.json")
    content = path.read_text()

    @SEVERAL
    @given(replaced(json.loads(content)))
    def check(value: Any) -> None:
        path.write_text(json.dumps(value))
        read_or_refused(lambda: load("teacher"))

    try:
        check()
    finally:
        path.write_text(content)
