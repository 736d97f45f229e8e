"""What tests of bad inputs share: a case, the commands that meet it, and the proof that it is refused in one line."""

import hashlib
import shlex
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from robust_student.cli.main import main

MANY = 5000
DEEP = "[" * 10**5
OUT = "--output out"
TRAIN = f"train --data digits --model linear {OUT}"
FIT = f"train --model linear {OUT} --data"
DISTILL = f"distill --teacher teacher --data digits --model linear {OUT}"
EVALUATE = f"evaluate --data digits {OUT}"
CERTIFY = f"certify --data digits {OUT}"
PREDICT = "predict --model teacher"
OWN = "return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))"


class Bad(NamedTuple):
    """An input that must be refused."""

    name: str
    words: str
    """What the user types."""
    message: str
    """Part of the complaint."""
    make: Callable[[], object] = lambda: None
    """Makes the bad input in the working directory."""


def snapshot(root: Path) -> dict[Path, tuple[int, int, str]]:
    """Every entry below a folder: its kind and permissions, the time of a file's last change and what it holds."""
    states = {}
    for path in root.rglob("*"):
        state = path.lstat()
        plain = stat.S_ISREG(state.st_mode)
        content = hashlib.sha256(path.read_bytes()).hexdigest() if plain else ""
        target = str(path.readlink()) if path.is_symlink() else ""
        states[path] = (state.st_mode, state.st_mtime_ns if plain else 0, content + target)
    return states


def every(*tables: list[Bad]) -> pytest.MarkDecorator:
    """Runs a test with every case of the tables."""
    cases = [bad for table in tables for bad in table]
    assert len({bad.name for bad in cases}) == len(cases) > 30
    return pytest.mark.parametrize("bad", cases, ids=lambda bad: bad.name)


def named(name: str, table: list[Bad]) -> Bad:
    """The case of this name."""
    (bad,) = [bad for bad in table if bad.name == name]
    return bad


def assert_refused(bad: Bad, here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The complaint is one line, the exit code is 2, and nothing is written or changed."""
    bad.make()
    before = snapshot(here)
    capfd.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(shlex.split(bad.words))
    shown, complaint = capfd.readouterr()
    assert stop.value.code == 2
    assert complaint.startswith("robust-student: error: ") and complaint.count("\n") == 1, complaint
    assert bad.message in complaint
    assert len(complaint) < 500
    assert not shown
    assert snapshot(here) == before


def assert_the_program_refuses(bad: Bad, here: Path) -> None:
    """The same as a process of its own: no warning of a library, no traceback of the interpreter."""
    bad.make()
    before = snapshot(here)
    done = subprocess.run(
        [sys.executable, "-m", "robust_student", *shlex.split(bad.words)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and not done.stdout
    assert done.stderr.startswith("robust-student: error: ") and done.stderr.count("\n") == 1
    assert bad.message in done.stderr
    assert snapshot(here) == before
