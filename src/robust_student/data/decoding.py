"""Many encoded images at once: decoded by worker processes, in order, into memory or the cache."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch.utils.data import DataLoader, Dataset

from robust_student.core.errors import UserError
from robust_student.core.tensors import Pixels
from robust_student.data.cache import remember, store
from robust_student.data.examples import Examples
from robust_student.data.images import Header, ImageFormat, decode, quiet, read_header
from robust_student.data.spec import Spec

ALONE = 2_000
"""Up to this many images are decoded without worker processes: starting those would take longer."""
_BATCH = 64


@dataclass(frozen=True)
class Numbered(Sequence[str]):
    """The places `PREFIX 0`, `PREFIX 1`, ... without a list of them."""

    prefix: str
    size: int

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, row: Any) -> Any:
        return f"{self.prefix} {row}"


@dataclass(frozen=True)
class EncodedImages:
    """Encoded images of one part of a set, not read yet."""

    images: Sequence[Any]
    """Files (Path) or their contents (bytes); anything with a length whose elements are had by number will do."""
    places: Sequence[str]
    """Names each image in a complaint."""
    key: Mapping[str, Any] | None
    """All that the images depend on, as JSON values; None: nothing is kept for the next time."""


def decode_all(pictures: EncodedImages, labels: Sequence[int], form: ImageFormat, workers: int) -> Examples:
    """All images in the format, with their labels; in memory or, where they are many, mapped from the cache.

    The pixels do not depend on the number of `workers`, the processes that decode. Raises UserError that names an
    image that cannot be read.
    """

    def blocks() -> Iterator[Pixels]:
        for batch in _batches(pictures, partial(decode, form=form), workers, "decoding images"):
            yield np.stack(batch)

    pixels = store((len(labels), *form), blocks, pictures.key)
    numbers = torch.tensor(labels, dtype=torch.int64)
    return Examples(pixels.inputs, numbers, mapped=pixels.mapped, content=pixels.content)


def read_headers(pictures: EncodedImages, workers: int) -> list[Header]:
    """What the header of each image says."""
    return [one for batch in _batches(pictures, read_header, workers, "looking at images") for one in batch]


def uniform_format(parts: Mapping[str, EncodedImages], spec: Spec) -> ImageFormat:
    """What a model expects; else the size asked for, or the one that all images have; grey only if every image is.

    Raises UserError where nobody asked for a size and the images differ. Remembered where they are many.
    """
    if spec.shape is not None:
        return ImageFormat(*spec.shape)

    def compute() -> ImageFormat:
        headers = {part: read_headers(pictures, spec.workers) for part, pictures in parts.items()}
        first = next(iter(headers.values()))[0]
        for part, headers_of_part in headers.items():
            odd = next((row for row, one in enumerate(headers_of_part) if one.size != first.size), None)
            if odd is not None and spec.size is None:
                sizes = "the image is {}x{}, the first is {}x{}".format(*headers_of_part[odd].size, *first.size)
                raise UserError(f"{parts[part].places[odd]}: {sizes}; ask for one size with --image-size")
        return ImageFormat(
            1 if all(one.grey for headers_of_part in headers.values() for one in headers_of_part) else 3,
            *(spec.size or first.size),
        )

    keys = {part: pictures.key for part, pictures in parts.items()}
    if None in keys.values() or sum(len(pictures.images) for pictures in parts.values()) <= ALONE:
        return compute()
    return ImageFormat(*remember({"what": "uniform format", "parts": keys, "size": spec.size}, compute))


def in_order(batches: Dataset[Any], count: int, workers: int) -> Iterator[Any]:
    """Elements 0, 1, ... of a dataset, computed by worker processes; an element that is a UserError is raised."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there are more processes than cores: whoever asks for them gets them
        loader = DataLoader(
            batches,
            batch_size=None,
            sampler=range(count),
            num_workers=0 if workers < 2 else min(workers, count),
            collate_fn=_as_it_is,
            generator=torch.Generator(),  # the global one is left alone
        )
        elements = iter(loader)
    try:
        for element in elements:
            if isinstance(element, UserError):
                raise element
            yield element
    except RuntimeError as error:
        if "DataLoader worker (pid" not in str(error):
            raise
        reason = str(error).splitlines()[0]
        raise UserError(f"data: a process that reads examples ended ({reason}); is there enough memory?") from None


class _Work(Dataset[Any]):
    """Batch k of what is found out about each image, or what is wrong with one of them."""

    def __init__(self, pictures: EncodedImages, work: Callable[..., Any]) -> None:
        self.pictures, self.work = pictures, work

    def __len__(self) -> int:
        return -(-len(self.pictures.images) // _BATCH)

    def __getitem__(self, k: int) -> list[Any] | UserError:
        images, places = self.pictures.images, self.pictures.places
        try:
            with quiet():
                return [
                    self.work(images[row], place=places[row])
                    for row in range(k * _BATCH, min((k + 1) * _BATCH, len(images)))
                ]
        except UserError as error:
            return error


def _batches(pictures: EncodedImages, work: Callable[..., Any], workers: int, what: str) -> Iterator[list[Any]]:
    """What `work` finds out about the images, in order, with a progress bar where they are many."""
    batches, many, console = _Work(pictures, work), len(pictures.images) > ALONE, Console(stderr=True)
    results = in_order(batches, len(batches), workers if many else 1)
    is_shown = many and console.is_terminal
    yield from track(results, what, len(batches), console=console, disable=not is_shown, transient=True)


def _as_it_is(element: Any) -> Any:
    return element
