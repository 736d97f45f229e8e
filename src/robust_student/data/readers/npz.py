"""Arrays in an .npz file."""

import math
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

from robust_student.core.errors import UserError, require_file
from robust_student.data.examples import Data, Examples, measured, numbered
from robust_student.data.samples import with_test_part
from robust_student.data.spec import Spec
from robust_student.runtime.hardware import require_memory


def read_npz(spec: Spec) -> Data:
    """Arrays: images as uint8 (n,h,w), (n,h,w,c) or (n,c,h,w), or float inputs of any shape.

    `x_train`, `y_train` and, as far as there are any, `x_test`, `y_test`, `x_validation`, `y_validation` and `classes`.
    """
    source, path = f"data '{spec.text}'", spec.path
    arrays = _read(path, source)
    for name in ("x_train", "y_train"):
        if name not in arrays:
            raise UserError(f"{source}: no array '{name}' in it (found {', '.join(sorted(arrays)) or 'nothing'})")
    parts = {"train": _array_examples(source, "train", arrays["x_train"], arrays["y_train"])}
    for part in ("test", "validation"):
        if (f"x_{part}" in arrays) != (f"y_{part}" in arrays):
            raise UserError(f"{source}: x_{part} and y_{part} go together")
        if f"x_{part}" in arrays:
            parts[part] = _array_examples(source, part, arrays[f"x_{part}"], arrays[f"y_{part}"])
            if parts[part].shape != parts["train"].shape:
                raise UserError(f"{source}: x_train and x_{part} differ in shape")
    names = [str(name) for name in np.atleast_1d(arrays["classes"])] if "classes" in arrays else None
    if names is None:
        names = list(numbered(int(parts["train"].labels.max()), f"{source}: y_train"))
    for part, examples in parts.items():
        worst = int(examples.labels.max())
        if worst >= len(names) or int(examples.labels.min()) < 0:
            wrong = worst if worst >= len(names) else int(examples.labels.min())
            raise UserError(f"{source}: label {wrong} in y_{part} is out of range for {len(names)} classes")
    parts = with_test_part(parts, names)
    return measured(path.stem, parts, names)


def _read(path: Path, source: str) -> dict[str, Any]:
    """The arrays of a file by name, never unpickled; each member must hold the bytes that its header claims."""
    require_file(path, f"{source}: cannot read it")
    try:
        with path.open("rb") as stream:  # opened here because numpy leaves damaged files open
            if stream.read(6) == b"\x93NUMPY":
                raise UserError(f"{source}: holds a single array, not an .npz file")
            with zipfile.ZipFile(stream) as archive:
                needed = sum(_claimed(archive, member) for member in archive.infolist())
            require_memory(needed, source, "write fewer examples, or uint8 pixels instead of floats")
            stream.seek(0)
            with np.load(stream, allow_pickle=False) as file:
                return {name: file[name] for name in file.files}
    except (OSError, EOFError, MemoryError, RuntimeError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{source}: cannot read it ({reason or type(error).__name__})") from None


def _claimed(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> int:
    """Bytes that a member's header says its array has; ValueError where the member has not as many."""
    with archive.open(member) as stream:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(stream)
        size = math.prod(shape) * dtype.itemsize
        if dtype.hasobject:
            raise ValueError(f"'{member.filename}' holds Python objects, which are never unpickled; save numbers")
        if size != member.file_size - stream.tell():
            raise ValueError(f"the header of '{member.filename}' says {shape}, the array has another size")
    return size


def _array_examples(source: str, part: str, inputs: Any, labels: Any) -> Examples:
    if inputs.size == 0 or inputs.ndim < 2:
        raise UserError(f"{source}: x_{part} must hold one row per example, not {inputs.dtype} {inputs.shape}")
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise UserError(f"{source}: y_{part} must be one whole number per example, not {labels.dtype} {labels.shape}")
    if len(inputs) != len(labels):
        raise UserError(f"{source}: x_{part} has {len(inputs)} rows, y_{part} {len(labels)}: they must agree")
    if not (np.issubdtype(inputs.dtype, np.floating) or inputs.dtype == np.uint8):
        raise UserError(f"{source}: x_{part} must be uint8 or float, one row per example, not {inputs.dtype}")
    with np.errstate(over="ignore"):  # too large for float32: found just below
        tensor = torch.from_numpy(inputs if inputs.dtype == np.uint8 else inputs.astype(np.float32))
    if not bool(torch.isfinite(tensor.float()).all()):
        raise UserError(f"{source}: x_{part} holds NaN or infinite values")
    if tensor.dtype == torch.uint8 and tensor.dim() == 3:
        tensor = tensor[:, None]
    elif tensor.dim() == 4 and tensor.shape[3] in (1, 3) and tensor.shape[1] not in (1, 3):
        tensor = tensor.permute(0, 3, 1, 2)
    return Examples(tensor.contiguous(), torch.from_numpy(labels.astype(np.int64)))
