"""MNIST and sets in the same format: IDX files."""

import gzip
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

from robust_student.examples import Data, Examples
from robust_student.specs import Spec
from robust_student.tensors import UNIT_RANGE, UserError


def read_idx(spec: Spec) -> Data:
    """The four IDX files of MNIST or of a set in the same format (Fashion-MNIST, KMNIST)."""
    folder = spec.folder
    arrays = {}
    for part in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        names = [f"{part}-ubyte", f"{part}-ubyte.gz", f"{part.replace('-idx', '.idx')}-ubyte"]
        found = [folder / name for name in names if (folder / name).exists()]
        if not found:
            spec.refuse(f"no file {part}-ubyte or {part}-ubyte.gz there")
        arrays[part] = torch.from_numpy(_read_array(found[0]))
    splits = []
    for part in ("train", "t10k"):
        images, labels = arrays[f"{part}-images-idx3"], arrays[f"{part}-labels-idx1"]
        if images.dim() != 3 or labels.dim() != 1 or len(images) != len(labels):
            spec.refuse(f"{part} images and labels do not belong together")
        splits.append(Examples(images[:, None], labels.long()))
    classes = int(splits[0].labels.max()) + 1 if len(splits[0]) else 0
    return Data("mnist", splits[0], splits[1], tuple(str(k) for k in range(classes)), UNIT_RANGE)


def _read_array(path: Path) -> np.ndarray[Any, np.dtype[np.uint8]]:
    try:
        raw = path.read_bytes()
        content = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
        zeros, kind, dims = struct.unpack(">HBB", content[:4])
        if zeros != 0 or kind != 8:
            raise ValueError("not an IDX file of unsigned bytes")
        shape = struct.unpack(f">{dims}I", content[4 : 4 + 4 * dims])
        return np.frombuffer(content, np.uint8, offset=4 + 4 * dims).reshape(shape).copy()
    except (OSError, EOFError, zlib.error, struct.error, ValueError) as error:
        raise UserError(f"data file {path}: cannot read it ({error})") from None
