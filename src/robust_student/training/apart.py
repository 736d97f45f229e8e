"""A large tensor of a checkpoint in a file of its own: copied in pieces, checked by its checksum, mapped when read."""

import hashlib
import math
import os
import re
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from robust_student.core.errors import UserError, require_file
from robust_student.core.tensors import Shape

NAME = re.compile(r"step-(\d{9})-([0-9a-f]{16})\.bytes")
"""What such files are called: the step, and the first 16 digits of the content's SHA-256."""
_PIECE = 16 * 2**20
"""Bytes in memory at a time."""


def write_apart(folder: Path, step: int, values: Tensor, file: BinaryIO | None = None) -> Path:
    """Write 8-bit integers of any device; where they are. OSError where that fails; nothing half-written is left then.

    Where `file` holds the same bytes, the system copies them, or shares them until they change where it can.
    """
    flat, checksum = values.flatten(), hashlib.sha256()
    with tempfile.NamedTemporaryFile(dir=folder, prefix=f".step-{step:09d}.", delete=False) as draft:
        try:
            for start in range(0, len(flat), _PIECE):
                piece = flat[start : start + _PIECE].cpu().numpy().data
                checksum.update(piece)
                if file is None or not _copied(file, draft.fileno(), start, len(piece)):
                    draft.seek(start)
                    draft.write(piece)
            draft.flush()
            os.fsync(draft.fileno())
            Path(draft.name).chmod(0o644)
            return Path(draft.name).replace(folder / f"step-{step:09d}-{checksum.hexdigest()[:16]}.bytes")
        except BaseException:
            Path(draft.name).unlink(missing_ok=True)
            raise


def read_apart(path: Path, shape: Shape) -> Tensor:
    """The tensor of that shape in a file of `write_apart`, mapped; UserError where the file is not whole."""
    require_file(path, f"checkpoint {path}: cannot read it")
    match = NAME.fullmatch(path.name)
    try:
        with path.open("rb") as file:
            whole = match is not None and hashlib.file_digest(file, "sha256").hexdigest()[:16] == match[2]
        size = path.stat().st_size
    except OSError as error:
        raise UserError(f"checkpoint {path}: cannot read it ({error.strerror})") from None
    if not whole or size != math.prod(shape):
        raise UserError(f"checkpoint {path}: damaged (its checksum is not the one in its name)")
    if size == 0:
        return torch.zeros(shape, dtype=torch.int8)
    return torch.from_file(str(path), shared=False, size=size, dtype=torch.int8).view(shape)


def _copied(file: BinaryIO, target: int, start: int, count: int) -> bool:
    """Whether the system copied a piece between two files; not every system and file system can."""
    if not hasattr(os, "copy_file_range"):
        return False
    done = 0
    with suppress(OSError):  # the piece is then written, which tells what is wrong
        while done < count:
            step = os.copy_file_range(file.fileno(), target, count - done, start + done, start + done)
            if step == 0:
                break
            done += step
    return done == count
