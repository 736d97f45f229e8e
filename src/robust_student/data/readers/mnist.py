"""MNIST and sets in the same format: IDX files."""

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

from robust_student.core.errors import UserError, require_file
from robust_student.core.tensors import UNIT_RANGE
from robust_student.data.examples import Data, Examples
from robust_student.data.spec import Spec
from robust_student.runtime.hardware import require_memory


def read_idx(spec: Spec) -> Data:
    """The four IDX files of MNIST or of a set in the same format (Fashion-MNIST, KMNIST)."""
    folder = spec.folder
    arrays = {}
    for part in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        names = [f"{part}-ubyte", f"{part}-ubyte.gz", f"{part.replace('-idx', '.idx')}-ubyte"]
        files = [folder / name for name in names if (folder / name).exists()]
        if not files:
            spec.refuse(f"no file {part}-ubyte or {part}-ubyte.gz there")
        arrays[part] = torch.from_numpy(_read_array(files[0]))
    splits = []
    for part in ("train", "t10k"):
        images, labels = arrays[f"{part}-images-idx3"], arrays[f"{part}-labels-idx1"]
        if images.dim() != 3 or labels.dim() != 1 or len(images) != len(labels):
            spec.refuse(f"{part} images and labels do not belong together")
        splits.append(Examples(images[:, None], labels.long()))
    classes = int(splits[0].labels.max()) + 1 if len(splits[0]) else 0
    return Data("mnist", splits[0], splits[1], tuple(str(k) for k in range(classes)), UNIT_RANGE)


def _read_array(path: Path) -> np.ndarray[Any, np.dtype[np.uint8]]:
    require_file(path, f"data file {path}: cannot read it")
    try:
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
        with gzip.open(path) if packed else path.open("rb") as stream:
            zeros, kind, dims = struct.unpack(">HBB", stream.read(4))
            if zeros != 0 or kind != 8 or not 1 <= dims <= 4:
                raise ValueError("not an IDX file of unsigned bytes in one to four dimensions")
            shape = struct.unpack(f">{dims}I", stream.read(4 * dims))
            size = math.prod(shape)
            if not packed and size != path.stat().st_size - stream.tell():
                raise ValueError(f"its header says {shape}, the file has another size")
            require_memory(size, f"data file {path}", "it is damaged or not meant for this machine")
            content = stream.read(size + 1)  # no more than the header says, however much is packed
            if len(content) != size:
                raise ValueError(f"its header says {shape}, it holds {'more' if len(content) > size else 'less'}")
        return np.frombuffer(content, np.uint8).reshape(shape).copy()
    except (OSError, EOFError, zlib.error, struct.error, ValueError) as error:
        raise UserError(f"data file {path}: cannot read it ({error})") from None
