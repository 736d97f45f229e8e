"""One picture of attacked images: before, after, and the change magnified, with what the model says."""

import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from robust_student.core.tensors import Inputs
from robust_student.report.document.figures import INK, MUTED

_ALARM = "#B4321E"
_WIDTH, _ROW = 7.2, 2.75
"""Inches: of the picture, and of the height of an image with its words."""
_LONGEST = 34
"""Characters of a class's name or a file's that fit above an image; longer ones are cut in the middle."""

Image = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class AttackedImage:
    """An image before and after an attack, `(2, channels, height, width)` in [0, 1], and words about it."""

    name: str
    images: Inputs
    before: str
    """The class that the model names before, and its confidence."""
    after: str
    changed: bool
    """Whether the decision changed."""
    size: str
    """Of the change."""


def attack_picture(rows: Sequence[AttackedImage], title: str) -> bytes:
    """The picture as PNG: a row for each image."""
    settings: dict[Any, Any] = {
        "font.family": "DejaVu Sans",
        "font.size": 9,
        "text.color": INK,
        "text.parse_math": False,
    }
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph", category=UserWarning)  # names in scripts that the font lacks
        figure = Figure(figsize=(_WIDTH, 0.5 + _ROW * len(rows)), layout="constrained")
        figure.suptitle(title, x=0.02, ha="left", fontsize=10)
        panels = figure.subplots(len(rows), 3, squeeze=False)
        for (before, after, change), row in zip(panels, rows, strict=True):
            first, second = row.images.permute(0, 2, 3, 1).numpy()
            factor = 0.5 / max(float(np.abs(second - first).max()), 1e-12)
            _draw(before, first, row.name, f"before: {row.before}", INK)
            verdict = "decision changed" if row.changed else "decision stands"
            _draw(after, second, verdict, f"after: {row.after}", _ALARM if row.changed else INK)
            moved = bool((second != first).any())
            magnified = f"change, {factor:.3g} times around grey" if moved else "no change"
            _draw(change, 0.5 + factor * (second - first), magnified, row.size, MUTED)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=150, metadata={"Software": None})
    return buffer.getvalue()


def _draw(axes: Axes, image: Image, heading: str, words: str, color: str) -> None:
    """An image `(height, width, channels)` with a line above it and one below, every pixel a square."""
    axes.imshow(image[:, :, 0] if image.shape[2] == 1 else image.clip(0, 1), cmap="gray", vmin=0, vmax=1)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(_cut(heading), fontsize=9, color=color)
    axes.set_xlabel(_cut(words), fontsize=9, color=INK)


def _cut(text: str) -> str:
    half = _LONGEST // 2
    return text if len(text) <= _LONGEST else f"{text[: half - 1]}…{text[-half:]}"
