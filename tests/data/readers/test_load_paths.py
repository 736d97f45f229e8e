"""A path without the name of a source: the complaint says how to write it."""

from collections.abc import Callable
from pathlib import Path

import pytest
from reference import message_of

from robust_student.data.readers.load import load_data


@pytest.mark.parametrize(
    ("name", "make", "kind"),
    [
        ("photos", lambda path: (path / "cat").mkdir(parents=True), "folder"),
        ("digits", lambda path: _with(path, "train-images-idx3-ubyte.gz"), "mnist"),
        ("rows", lambda path: _with(path, "train-00000.parquet"), "parquet"),
        ("batches", lambda path: _with(path, "data_batch_1"), "cifar10"),
        ("sensor.csv", Path.touch, "csv"),
        ("arrays.npz", Path.touch, "npz"),
    ],
)
def test_a_path_is_named_with_its_source(name: str, make: Callable[[Path], None], kind: str, tmp_path: Path) -> None:
    path = tmp_path / name
    make(path)
    assert message_of(lambda: load_data(str(path))).endswith(f"; that is a path: write {kind}:{path}")


@pytest.mark.parametrize("spec", ["", "nowhere", "x" * 5000])
def test_what_is_no_path_is_an_unknown_name(spec: str) -> None:
    assert "that is a path" not in message_of(lambda: load_data(spec))


def _with(folder: Path, file: str) -> None:
    folder.mkdir()
    (folder / file).touch()
