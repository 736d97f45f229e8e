"""Parquet files in the layout of Hugging Face datasets."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
from PIL import Image

from robust_student.core.tensors import Shape

NAMES = ["cat", "dog", "owl"]


def encoded(pixels: Any, form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form)
    return buffer.getvalue()


def pictures(count: int, shape: Shape = (6, 5, 3), seed: int = 0) -> list[Any]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, shape).astype(np.uint8) for _ in range(count)]


def write_parquet(
    path: Path,
    images: list[Any],
    labels: list[Any],
    column: str = "image",
    names: list[str] | None = NAMES,
    label: str = "label",
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pyarrow.table({column: images, label: labels})
    if names is not None:
        features = {"info": {"features": {label: {"names": names, "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({b"huggingface": json.dumps(features).encode()})
    pyarrow.parquet.write_table(table, path, row_group_size=4)
