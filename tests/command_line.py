"""Runs the program as a user does, or expects its complaint."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robust_student.cli.main import main

LINEAR = ["--data", "digits", "--model", "linear"]
TRAIN = [*LINEAR, "--epochs", "2", "--device", "cpu"]


def run(*words: str) -> None:
    main([str(word) for word in words])


def refused(capsys: pytest.CaptureFixture[str], *words: str | Path) -> str:
    """Run words that must fail; return the one line on standard error."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        run(*map(str, words))
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert error.count("\n") == 1
    assert error.startswith("robust-student: error: ")
    assert "Traceback" not in error
    return error


def bad_npz(folder: Path, **arrays: Any) -> str:
    path = folder / "bad.npz"
    np.savez(path, **arrays)
    return f"npz:{path}"
