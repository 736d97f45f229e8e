"""Image files and encoded images as pixels."""

import io
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from robust_student.core.errors import UserError, require_file
from robust_student.core.tensors import Pixels

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
"""Formats that are read, by Pillow's names."""
_LARGEST_PIXELS = 90_000_000
"""Images of more pixels are refused before they are decoded: 300 bytes can claim gigabytes."""
_LARGEST_KEPT = 64
"""Images of one common size up to this many pixels a side keep it; others become _DEFAULT_SIDE wide and high."""
_DEFAULT_SIDE = 32
GREY = frozenset({"1", "L", "LA", "I", "I;16", "F"})
"""Modes of Pillow with one channel besides transparency."""
_DEEP = frozenset({"I", "I;16", "F"})

_Used = TypeVar("_Used")


class Header(NamedTuple):
    """What the header of an image file says."""

    grey: bool
    size: tuple[int, int]
    """(height, width) in pixels."""


class ImageFormat(NamedTuple):
    """What every image of a set is made into."""

    channels: int
    height: int
    width: int


def read_header(file: Path | bytes, place: str) -> Header:
    """Read only the header of an image; `place` names it in a UserError."""
    return _open(file, place, lambda image: Header(image.mode in GREY, (image.size[1], image.size[0])))


def common_format(headers: Iterable[Header], size: tuple[int, int] | None = None) -> ImageFormat:
    """Grey only if every image is; the size asked for, else the common one if at most 64 pixels a side, else 32x32."""
    distinct = Counter(headers)
    channels = 1 if all(one.grey for one in distinct) else 3
    sizes = {one.size for one in distinct}
    height, width = next(iter(sizes)) if len(sizes) == 1 else (_DEFAULT_SIDE, _DEFAULT_SIDE)
    if max(height, width) > _LARGEST_KEPT:
        height, width = _DEFAULT_SIDE, _DEFAULT_SIDE
    return ImageFormat(channels, *(size or (height, width)))


def decode(file: Path | bytes, *, form: ImageFormat, place: str) -> Pixels:
    """Pixels `(channels, height, width)`: upright, converted and resized (bilinear); `place` names a bad image."""
    return _open(file, place, lambda image: as_pixels(image, form))


def as_pixels(image: Image.Image, form: ImageFormat) -> Pixels:
    """An opened image in the format: upright as its camera noted; 16 bits and floats are scaled to 8, not clipped."""
    image = ImageOps.exif_transpose(image)
    if image.mode in _DEEP:
        values = np.asarray(image, np.float64)
        if not np.isfinite(values).all():
            raise ValueError("NaN or infinite pixels")
        image = Image.fromarray((values * (255 / max(65535.0 if image.mode != "F" else values.max(), 1))).astype("u1"))
    image = image.convert("L" if form.channels == 1 else "RGB")
    if image.size != (form.width, form.height):
        image = image.resize((form.width, form.height), Image.Resampling.BILINEAR)
    pixels = np.asarray(image)
    return pixels[None] if form.channels == 1 else pixels.transpose(2, 0, 1)


def read_image(path: Path, shape: Sequence[int]) -> Tensor:
    """One image file as floats in [0, 1], resized to `shape` (channels, height, width); UserError names a bad file."""
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise UserError(f"image {path}: the model expects inputs of shape {tuple(shape)}, not images")
    with quiet():
        pixels = decode(path, form=ImageFormat(*shape), place=f"image {path}").copy()
    return torch.from_numpy(pixels).float() / 255


def image_files(paths: Iterable[Path]) -> list[Path]:
    """Files as they are named; in the place of a folder all images in it, however deep, in the order of their names.

    Hidden files and folders are left out. Raises UserError where a folder holds no image.
    """
    files: list[Path] = []
    for path in paths:
        if not path.is_dir():
            files.append(path)
            continue
        inside = (file for file in sorted(path.rglob("*")) if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file())
        images = [file for file in inside if not any(part.startswith(".") for part in file.relative_to(path).parts)]
        if not images:
            raise UserError(f"folder {path}: holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
        files += images
    return files


@contextmanager
def quiet() -> Iterator[None]:
    """No warnings of Pillow about damaged metadata or sizes. Not in threads: filters of warnings are global."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _open(file: Path | bytes, place: str, use: Callable[[Image.Image], _Used]) -> _Used:
    """What `use` makes of an opened image. Only _FORMATS are tried: some others of Pillow run programs (PostScript)."""
    if isinstance(file, Path):
        require_file(file, f"{place}: cannot read it")
    try:
        with io.BytesIO(file) if isinstance(file, bytes) else file.open("rb") as stream:
            image = Image.open(stream, formats=_FORMATS)
            if image.size[0] * image.size[1] > _LARGEST_PIXELS:
                raise ValueError(f"{image.size[0]} x {image.size[1]} pixels are more than {_LARGEST_PIXELS:,}")
            return use(image)
    except UnidentifiedImageError:
        raise UserError(f"{place}: cannot read it (not an image of a known format, or cut short)") from None
    except Exception as error:  # Pillow's decoders raise whatever struct, zlib or an index raises
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{place}: cannot read it ({reason})") from None
