"""Checkpoints: what is written is what is read, damage is noticed, and nothing in a file is run."""

import hashlib
import io
import os
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from reference import message_of

from robust_student.training import checkpoints
from robust_student.training.checkpoints import CHECKPOINT_FOLDER, Checkpoints

STATE: dict[str, Any] = {"weights": {"a": torch.tensor([1.5, -2.0])}, "history": [{"epoch": 1, "rate": 0.1}], "done": 3}


def named(run: Path, step: int, content: bytes) -> Path:
    """A file with the right name for its content."""
    path = run / CHECKPOINT_FOLDER / f"step-{step:09d}-{hashlib.sha256(content).hexdigest()[:16]}.pt"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    return path


def saved(state: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def test_the_newest_state_comes_back_and_one_before_it_is_kept(tmp_path: Path) -> None:
    store = Checkpoints(tmp_path)
    assert store.latest() is None
    for step in (5, 20, 100):
        store.save(step, STATE | {"done": step})
    newest = Checkpoints(tmp_path).latest()
    assert newest is not None and newest[0] == newest[1]["done"] == 100
    assert torch.equal(newest[1]["weights"]["a"], STATE["weights"]["a"]) and newest[1]["history"] == STATE["history"]
    assert len(list((tmp_path / CHECKPOINT_FOLDER).iterdir())) == 2


@pytest.mark.parametrize("damage", ["cut", "flipped bit", "empty"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(tmp_path: Path, damage: str) -> None:
    store = Checkpoints(tmp_path)
    for step in (5, 20):
        store.save(step, STATE | {"done": step})
    newest = next((tmp_path / CHECKPOINT_FOLDER).glob("step-000000020*"))
    content = bytearray(newest.read_bytes())
    if damage == "flipped bit":
        content[len(content) // 2] ^= 1
    newest.write_bytes(bytes({"cut": content[:-7], "flipped bit": content, "empty": b""}[damage]))
    again = Checkpoints(tmp_path)
    latest = again.latest()
    assert latest is not None and latest[0] == 5
    assert len(again.skipped) == 1 and newest.name in again.skipped[0] and "damaged" in again.skipped[0]


def test_when_all_are_damaged_it_says_so(tmp_path: Path) -> None:
    store = Checkpoints(tmp_path)
    store.save(5, STATE)
    next((tmp_path / CHECKPOINT_FOLDER).iterdir()).write_bytes(b"nonsense")
    assert "no other checkpoint is whole" in message_of(lambda: Checkpoints(tmp_path).latest())


class Payload:
    """Would make a file when unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def test_a_checkpoint_that_would_run_code_is_refused_and_does_not_run(tmp_path: Path) -> None:
    named(tmp_path, 7, saved({"model": Payload(tmp_path / "ran")}))
    assert "could run code" in message_of(lambda: Checkpoints(tmp_path).latest())
    assert not (tmp_path / "ran").exists()


def test_a_compressed_or_foreign_file_is_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"0" * 10_000_000)
    path = named(tmp_path, 1, buffer.getvalue())
    assert "compressed" in message_of(lambda: Checkpoints(tmp_path).latest())
    path.unlink()
    named(tmp_path, 1, b"PK not really")
    assert "not readable" in message_of(lambda: Checkpoints(tmp_path).latest())
    (tmp_path / CHECKPOINT_FOLDER).joinpath("step-1.pt").write_bytes(b"not ours")
    next((tmp_path / CHECKPOINT_FOLDER).glob("step-000*")).unlink()
    named(tmp_path, 1, saved([1, 2]))
    assert "holds list" in message_of(lambda: Checkpoints(tmp_path).latest())


def test_a_full_disk_leaves_the_earlier_checkpoint_intact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Checkpoints(tmp_path)
    store.save(5, STATE)
    before = {path.name: path.read_bytes() for path in (tmp_path / CHECKPOINT_FOLDER).iterdir()}

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    message = message_of(lambda: store.save(6, STATE))
    assert "No space left on device" in message and "the one of step 5 is intact" in message
    assert {path.name: path.read_bytes() for path in (tmp_path / CHECKPOINT_FOLDER).iterdir()} == before


def test_what_a_killed_write_leaves_behind_is_cleared_away(tmp_path: Path) -> None:
    Checkpoints(tmp_path).save(5, STATE)
    (tmp_path / CHECKPOINT_FOLDER / ".step-000000006.pt.abc").write_bytes(b"half a file")
    newest = Checkpoints(tmp_path).latest()
    assert newest is not None and newest[0] == 5
    assert [path.name[:14] for path in (tmp_path / CHECKPOINT_FOLDER).iterdir()] == ["step-000000005"]


def test_clearing_removes_all(tmp_path: Path) -> None:
    store = Checkpoints(tmp_path)
    store.save(5, STATE)
    store.clear()
    assert not (tmp_path / checkpoints.CHECKPOINT_FOLDER).exists()
