"""The same 20 examples as shards of two kinds, and what a stream of them gives."""

import io
import tarfile
from pathlib import Path

import datasets
import numpy as np
from PIL import Image
from torch import Tensor

from robust_student.data.examples import Data
from robust_student.data.streams import Stream

SHAPE = (5, 4, 3)


def png(value: int) -> bytes:
    """A file whose every pixel has this value."""
    buffer = io.BytesIO()
    Image.fromarray(np.full(SHAPE, value, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def write_shard(path: Path, values: list[int], **others: bytes) -> Path:
    """A tar file of images with class `value % 3`; `others` go beside each image by their suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for value in values:
            files = {"png": png(value), "cls": str(value % 3).encode()} | others
            for suffix, content in files.items():
                entry = tarfile.TarInfo(f"{value:04}.{suffix}")
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    return path


def web_shards(folder: Path, sizes: tuple[int, ...] = (7, 4, 9)) -> str:
    """A spec of three shards of 20 training examples (values from 100) and one of 4 test examples (values 0 to 3)."""
    start = 100
    for k, size in enumerate(sizes):
        write_shard(folder / f"train-{k:02}.tar", list(range(start, start + size)))
        start += size
    write_shard(folder / "test-0.tar", [0, 1, 2, 3])
    write_shard(folder / "validation-0.tar", [10, 11, 12])
    (folder / "names.txt").write_text("cat\ndog\nowl\n")
    return (
        f"wds:{folder}/train-{{00..{len(sizes) - 1:02}}}.tar,test={folder}/test-0.tar,"
        f"validation={folder}/validation-0.tar,classes={folder}/names.txt,size=5x4,shuffle=6"
    )


def hub_shards(folder: Path) -> str:
    """The same examples as a folder of Parquet files."""
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog", "owl"])})
    parts = {
        "train-00000": range(100, 107),
        "train-00001": range(107, 111),
        "train-00002": range(111, 120),
        "test-00000": range(4),
        "validation-00000": range(10, 13),
    }
    folder.mkdir()
    for name, values in parts.items():
        rows = {"image": [{"bytes": png(v), "path": None} for v in values], "label": [v % 3 for v in values]}
        datasets.Dataset.from_dict(rows, features=features).to_parquet(folder / f"{name}.parquet")
    return f"hf-stream:{folder},size=5x4,shuffle=6,length=20"


def stream_of(data: Data) -> Stream:
    assert isinstance(data.train, Stream)
    return data.train


Batches = list[tuple[Tensor, Tensor, Tensor]]


def values(batches: Batches) -> list[int]:
    """The values of the examples, in the order in which they came."""
    return [int(image.unique()) for inputs, _, _ in batches for image in inputs]
