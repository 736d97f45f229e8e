"""Streams over shards: files of encoded images that are read one after the other, in an order drawn anew each epoch."""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from robust_student.core.errors import UserError, require_file
from robust_student.core.tensors import UNIT_RANGE, Pixels
from robust_student.data.examples import Data, Examples
from robust_student.data.images import ImageFormat, decode
from robust_student.data.spec import Spec
from robust_student.data.streams import Stream

OPTIONS = ("size", "channels", "classes", "length", "shuffle", "held_out")
"""Options of every sharded source."""
_SHUFFLE = 2_000
"""Encoded examples among which the next one is drawn, besides the order of the shards."""
_HELD_OUT = 10_000
"""Examples of a test or validation part that are read into memory, at most."""
_SET_ASIDE = 2_000
"""Training examples set aside for validation, at most, and at most a tenth, where a source has no validation part."""
_AHEAD = 2  # batches that are decoded while another one is used
_ORDER = 0  # the epoch and seed of samples that are drawn once


class EncodedExample(NamedTuple):
    """One example as a shard holds it."""

    image: bytes | Path
    label: int
    place: str
    """Names it in a complaint."""


class Shards(ABC):
    """A sharded set."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of shards."""

    @abstractmethod
    def read(self, shard: int) -> Iterator[EncodedExample]:
        """The examples of a shard in their order; UserError where it cannot be read."""


class ShardedStream(Stream):
    """Training examples from shards, mixed by a new order of the shards and a buffer, decoded by threads.

    Every process reads all shards and decodes only its own examples: so any number of processes sees the batches that
    one would, and none needs to know how many examples a shard holds.
    """

    def __init__(
        self,
        shards: Shards,
        form: ImageFormat,
        length: int,
        *,
        left_out: frozenset[int] = frozenset(),
        shuffle: int = _SHUFFLE,
        threads: int = 1,
    ) -> None:
        """`left_out` are the numbers of examples set aside; `length` does not count them."""
        self.shards, self.form, self.length, self.left_out = shards, form, length, left_out
        self.shuffle, self.threads = shuffle, threads
        self.shape = tuple(form)

    def batches(
        self, *, epoch: int, batch_size: int, seed: int, skip: int = 0, rank: int = 0, world: int = 1
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """As `Stream.batches`; an example's number is its shard times 2^32 plus its position there."""
        step_size = batch_size * world
        samples = mixed(self.shards, epoch, seed, self.shuffle, self.left_out)
        pool = ThreadPoolExecutor(self.threads)
        waiting: deque[tuple[list[tuple[int, EncodedExample]], list[Future[Pixels]]]] = deque()
        try:
            for step in range(self.length // step_size):
                group = list(islice(samples, step_size))
                if len(group) < step_size:
                    held = step * step_size + len(group)
                    raise UserError(f"stream: its shards hold {held} training examples, not {self.length}")
                if step >= skip:
                    own_samples = group[rank * batch_size : (rank + 1) * batch_size]
                    waiting.append((own_samples, [pool.submit(self._decode, sample) for _, sample in own_samples]))
                if len(waiting) > _AHEAD:
                    yield _batch(*waiting.popleft())
            while waiting:
                yield _batch(*waiting.popleft())
        finally:
            pool.shutdown(cancel_futures=True)

    def _decode(self, sample: EncodedExample) -> Pixels:
        return decode(sample.image, form=self.form, place=sample.place)


def mixed(
    shards: Shards, epoch: int, seed: int, shuffle: int, left_out: frozenset[int] = frozenset()
) -> Iterator[tuple[int, EncodedExample]]:
    """All examples with their numbers in an order that depends on epoch and seed alone.

    The shards come in random order; of `shuffle` examples that are held, one drawn at random gives way to the next.
    """
    rng = np.random.default_rng([seed, epoch])
    order = rng.permutation(len(shards)).tolist()
    held: list[tuple[int, EncodedExample]] = []
    for shard in order:
        for position, sample in enumerate(shards.read(shard)):
            number = shard * 2**32 + position
            if number in left_out:
                continue
            if len(held) < shuffle:
                held.append((number, sample))
                continue
            k = int(rng.integers(shuffle))
            yield held[k]
            held[k] = (number, sample)
    for k in rng.permutation(len(held)).tolist():
        yield held[k]


def _sample_of(
    shards: Shards, form: ImageFormat, most: int, shuffle: int, threads: int
) -> tuple[Examples, frozenset[int]]:
    """At most `most` examples from the front of a fixed order, read into memory by ascending number; the numbers."""
    chosen = sorted(islice(mixed(shards, _ORDER, _ORDER, shuffle), most), key=lambda numbered: numbered[0])
    with ThreadPoolExecutor(threads) as pool:
        pixels = list(pool.map(lambda one: decode(one[1].image, form=form, place=one[1].place), chosen))
    inputs = torch.from_numpy(np.stack(pixels)) if pixels else torch.empty((0, *form), dtype=torch.uint8)
    return Examples(inputs, _labels(chosen)), frozenset(number for number, _ in chosen)


def streamed(spec: Spec, parts: dict[str, Shards], classes: tuple[str, ...], length: int, form: ImageFormat) -> Data:
    """Data whose training part is a stream of `length` examples, less those that are set aside for validation.

    Test and validation parts are read into memory up to `held_out` examples. Without a validation part _SET_ASIDE
    training examples, at most a tenth, take its place and are left out of the stream.
    """
    shuffle, most = number_option(spec, "shuffle", _SHUFFLE), number_option(spec, "held_out", _HELD_OUT)
    threads = max(1, spec.workers)
    if "test" not in parts and "validation" in parts:
        parts = {"train": parts["train"], "test": parts["validation"]}
    if "test" not in parts:
        spec.refuse("a stream needs a test part; name one with test=...")
    test, _ = _sample_of(parts["test"], form, most, shuffle, threads)
    if "validation" in parts:
        left_out = frozenset[int]()
        validation, _ = _sample_of(parts["validation"], form, most, shuffle, threads)
    else:
        validation, left_out = _sample_of(parts["train"], form, max(1, min(_SET_ASIDE, length // 10)), shuffle, threads)
    stream = ShardedStream(
        parts["train"], form, length - len(left_out), left_out=left_out, shuffle=shuffle, threads=threads
    )
    return Data(spec.place, stream, test, classes, UNIT_RANGE, validation=validation)


def asked_format(spec: Spec) -> ImageFormat:
    """What a model expects, else the options `size=HxW` and `channels`; UserError where nobody says the size."""
    spec.require_images()
    if spec.shape is not None:
        return ImageFormat(*spec.shape)
    size = spec.size
    if "size" in spec.options:
        sides = spec.options["size"].split("x")
        if len(sides) > 2 or not all(side.isdecimal() and 0 < int(side) <= 100_000 for side in sides):
            spec.refuse(f"size '{spec.options['size']}' is neither SIDE nor HEIGHTxWIDTH in pixels")
        size = (int(sides[0]), int(sides[-1]))
    if size is None:
        spec.refuse("needs the size to which images are resized; add size=64 or size=48x64, for example")
    channels = number_option(spec, "channels", 3)
    if channels not in (1, 3):
        spec.refuse(f"channels={channels} is neither 1 (grey) nor 3 (colour)")
    return ImageFormat(channels, *size)


def number_option(spec: Spec, name: str, otherwise: int) -> int:
    """A positive whole number among the options."""
    text = spec.options.get(name, str(otherwise))
    if not text.isdecimal() or not 0 < int(text) < 2**53:
        spec.refuse(f"{name} '{text}' is not a positive whole number")
    return int(text)


def class_names(spec: Spec) -> tuple[str, ...]:
    """The option `classes`: a file with one name per line, or their number; empty where it is not given."""
    option = spec.options.get("classes", "")
    if not option or option.isdecimal():
        return tuple(str(k) for k in range(number_option(spec, "classes", 1))) if option else ()
    require_file(Path(option), f"data '{spec.text}': cannot read the class names in {option}")
    try:
        lines = Path(option).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        spec.refuse(f"cannot read the class names in {option} ({error})")
    return tuple(line.strip() for line in lines if line.strip())


def _batch(
    samples: list[tuple[int, EncodedExample]], pixels: Iterable[Future[Pixels]]
) -> tuple[Tensor, Tensor, Tensor]:
    inputs = torch.from_numpy(np.stack([future.result() for future in pixels]))
    return inputs, _labels(samples), torch.tensor([number for number, _ in samples], dtype=torch.int64)


def _labels(samples: list[tuple[int, EncodedExample]]) -> Tensor:
    return torch.tensor([sample.label for _, sample in samples], dtype=torch.int64)
