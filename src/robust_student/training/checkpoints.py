"""The state of an unfinished training on disk: written atomically, verified when read, the one before it kept."""

import hashlib
import io
import pickle
import re
import shutil
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from robust_student.core.errors import UserError, require_file
from robust_student.runtime.files import write_atomically
from robust_student.training.apart import NAME as APART_NAME
from robust_student.training.apart import read_apart, write_apart

CHECKPOINT_FOLDER = "checkpoints"
"""Name of the folder in a run directory."""
NO_FILES: Mapping[int, BinaryIO] = {}
"""Where no tensor is mapped."""
_KEPT = 2
_APART = "lies apart in"
_NAME = re.compile(r"step-(\d{9})-([0-9a-f]{16})\.pt")


class Checkpoints:
    """The checkpoints of one run: `step-STEP-SHA.pt`, SHA being the first 16 digits of the file's SHA-256.

    Tensors of 8-bit integers, which may be larger than memory, lie beside it in files `step-STEP-SHA.bytes`.
    """

    def __init__(self, run: Path) -> None:
        """Those of the run directory `run`; what a killed write left behind is cleared away."""
        self.folder = run / CHECKPOINT_FOLDER
        self.skipped: list[str] = []
        """What `latest` says about checkpoints that it could not use."""
        self.seconds = 0.0
        """What the last one took to write."""
        if self.folder.is_dir():
            for leftover in self.folder.glob(".*"):
                leftover.unlink(missing_ok=True)
            self._tidy()

    def save(self, step: int, state: dict[str, Any], files: Mapping[int, BinaryIO] = NO_FILES) -> None:
        """Write the state after `step` (tensors and plain containers) and keep the one before it.

        `files`: those that tensors are mapped from, by the addresses of the tensors. Raises UserError where it cannot
        be written; earlier checkpoints are then as they were.
        """
        started = time.monotonic()
        try:
            self.folder.mkdir(exist_ok=True)
            buffer = io.BytesIO()
            torch.save(self._taken_apart(step, state, files), buffer)
            content = buffer.getvalue()
            name = f"step-{step:09d}-{hashlib.sha256(content).hexdigest()[:16]}.pt"
            write_atomically(self.folder / name, content)
            self._tidy()
        except OSError as error:
            self._tidy()
            intact = self._files()
            last = f"the one of step {_step(intact[0])} is intact" if intact else "there is none yet"
            raise UserError(
                f"checkpoint of step {step} in {self.folder}: cannot write it ({error.strerror}); {last}; remove the "
                "cause and give the same command again"
            ) from None
        self.seconds = time.monotonic() - started

    def latest(self) -> tuple[int, dict[str, Any]] | None:
        """Step and state of the newest checkpoint that is whole; None where there is none at all.

        Damaged ones are passed over and named in `skipped`. Raises UserError where none of them is whole.
        """
        files = self._files()
        for path in files:
            try:
                return _step(path), _read(path)
            except UserError as error:
                self.skipped.append(str(error))
        if files:
            raise UserError(f"{self.skipped[0]}; no other checkpoint is whole: remove the run directory to start again")
        return None

    def clear(self) -> None:
        """Remove them all: the training is complete."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _taken_apart(self, step: int, value: Any, files: Mapping[int, BinaryIO]) -> Any:
        """The value with the name and the shape of a file that holds it in place of every tensor of 8-bit integers."""
        if isinstance(value, dict):
            return {key: self._taken_apart(step, inner, files) for key, inner in value.items()}
        if isinstance(value, Tensor) and value.dtype == torch.int8:
            path = write_apart(self.folder, step, value, files.get(value.data_ptr()))
            return {_APART: path.name, "shape": list(value.shape)}
        return value

    def _tidy(self) -> None:
        """Remove all but the newest, and what lies beside checkpoints that are gone or were never written."""
        files = self._files()
        for old in files[_KEPT:]:
            old.unlink(missing_ok=True)
        steps = {_step(path) for path in files[:_KEPT]}
        for path in self.folder.glob("step-*.bytes"):
            match = APART_NAME.fullmatch(path.name)
            if match is not None and int(match[1]) not in steps:
                path.unlink(missing_ok=True)

    def _files(self) -> list[Path]:
        """Newest first."""
        files = [path for path in self.folder.glob("step-*.pt") if _NAME.fullmatch(path.name)]
        return sorted(files, key=_step, reverse=True)


def _step(path: Path) -> int:
    match = _NAME.fullmatch(path.name)
    assert match is not None  # _files only yields such names
    return int(match[1])


def _read(path: Path) -> dict[str, Any]:
    """A checkpoint whose checksum is right and which holds nothing but tensors and plain containers."""
    require_file(path, f"checkpoint {path}: cannot read it")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"checkpoint {path}: cannot read it ({error.strerror})") from None
    if not path.name.endswith(f"-{hashlib.sha256(content).hexdigest()[:16]}.pt"):
        raise UserError(f"checkpoint {path}: damaged (its checksum is not the one in its name)")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise UserError(f"checkpoint {path}: refused (compressed entries, which this program never writes)")
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(f"checkpoint {path}: refused (it holds more than tensors; reading it could run code)") from None
    except (RuntimeError, EOFError, zipfile.BadZipFile, ValueError, KeyError, AssertionError, OSError) as error:
        raise UserError(f"checkpoint {path}: not readable ({' '.join(str(error).split())[:120]})") from None
    if not isinstance(state, dict):
        raise UserError(f"checkpoint {path}: holds {type(state).__name__}, not the state of a training")
    whole: dict[str, Any] = _put_together(path.parent, state)
    return whole


def _put_together(folder: Path, value: Any) -> Any:
    """The value with every tensor that lies in a file of its own, mapped; UserError where one is not whole."""
    if not isinstance(value, dict):
        return value
    if _APART not in value:
        return {key: _put_together(folder, inner) for key, inner in value.items()}
    name, shape = value[_APART], value.get("shape")
    if not isinstance(name, str) or not isinstance(shape, list) or not all(isinstance(size, int) for size in shape):
        raise UserError(f"checkpoint in {folder}: does not say which file lies beside it")
    return read_apart(folder / Path(name).name, tuple(shape))
