"""Files are written whole or not at all, and lines that were cut are told apart from bad ones."""

import math
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from reference import message_of

from robust_student.models.run_directory import require_new
from robust_student.runtime.files import (
    append_jsonl,
    read_jsonl,
    replacing,
    require_writable,
    write_atomically,
    write_json,
)


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("existing", [False, True])
def test_replacing_puts_the_new_directory_in_place_and_leaves_nothing_else(existing: bool, tmp_path: Path) -> None:
    target = tmp_path / "out"
    if existing:
        target.mkdir()
        (target / "old").write_text("old")
    with replacing(target) as draft:
        (draft / "new").write_text("new")
        assert draft != target and (target / "old").exists() is existing
    assert names_in(target) == {"new"} and names_in(tmp_path) == {"out"}
    assert target.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("existing", [False, True])
@pytest.mark.parametrize("stop", [ValueError, KeyboardInterrupt])
def test_replacing_keeps_what_was_there_when_the_block_fails(
    existing: bool, stop: type[BaseException], tmp_path: Path
) -> None:
    target = tmp_path / "out"
    if existing:
        target.mkdir()
        (target / "old").write_text("old")
    with pytest.raises(stop), replacing(target) as draft:
        (draft / "new").write_text("new")
        raise stop
    assert names_in(tmp_path) == ({"out"} if existing else set())
    assert not existing or names_in(target) == {"old"}


@pytest.mark.parametrize("require", [require_new, require_writable])
def test_an_output_that_is_a_file_or_below_one_is_refused(require: Callable[[Path], None], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        assert str(path) in message_of(lambda path=path: require(path))  # type: ignore[misc]


def failing_sync(descriptor: int) -> None:
    raise OSError("disk on fire")


def test_an_interrupted_write_keeps_the_old_content_and_leaves_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_atomically(tmp_path / "file", b"old")
    monkeypatch.setattr(os, "fsync", failing_sync)
    with pytest.raises(OSError, match="disk on fire"):
        write_atomically(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"old" and names_in(tmp_path) == {"file"}


def test_an_atomic_write_replaces_the_content_and_leaves_nothing_else(tmp_path: Path) -> None:
    for content in (b"first", b"second"):
        write_atomically(tmp_path / "file", content)
    assert (tmp_path / "file").read_bytes() == b"second" and names_in(tmp_path) == {"file"}
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_json_files_never_hold_nan_or_infinity(value: float, tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        write_json(tmp_path / "file.json", {"x": value})
    with pytest.raises(ValueError):
        append_jsonl(tmp_path / "file.jsonl", [{"x": 1}, {"x": value}])
    assert not (tmp_path / "file.json").exists() and (tmp_path / "file.jsonl").read_text() == ""


def test_appended_rows_come_back_in_order(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    append_jsonl(path, [{"a": 1}, {"b": "zwei\nü"}])
    append_jsonl(path, [])
    append_jsonl(path, [{"c": None}])
    assert read_jsonl(path) == [{"a": 1}, {"b": "zwei\nü"}, {"c": None}]


@pytest.mark.parametrize("length", range(1, 9))
def test_a_last_line_that_was_cut_is_dropped(length: int, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n' + '{"a": 25}'[:length])
    assert read_jsonl(path) == [{"a": 1}]


@pytest.mark.parametrize("bad", [b'{"a"\n{"a": 2}\n', b'{"a": \n', b'\xff\n{"a": 2}\n'])
def test_any_other_bad_line_is_named(bad: bytes, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a": 1}\n' + bad)
    message = message_of(lambda: read_jsonl(path))
    assert "rows.jsonl" in message and "line 2" in message
