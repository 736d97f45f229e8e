"""The order in which examples of shards come."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from streamed import png

from robust_student.data.images import ImageFormat
from robust_student.data.readers import shards
from robust_student.data.readers.shards import EncodedExample, ShardedStream, Shards, mixed


class Counted(Shards):
    """Shards of the given sizes; an example's label is its position in the whole set."""

    def __init__(self, sizes: list[int]) -> None:
        self.sizes, self.reads = sizes, list[int]()

    def __len__(self) -> int:
        return len(self.sizes)

    def read(self, shard: int) -> Iterator[EncodedExample]:
        self.reads.append(shard)
        start = sum(self.sizes[:shard])
        return iter([EncodedExample(png(0), start + k, "somewhere") for k in range(self.sizes[shard])])


@given(st.lists(st.integers(0, 9), min_size=1, max_size=6), st.integers(1, 40), st.integers(1, 5), st.integers(0, 9))
def test_mixing_gives_every_example_once(sizes: list[int], shuffle: int, epoch: int, seed: int) -> None:
    samples = list(mixed(Counted(sizes), epoch, seed, shuffle))
    assert sorted(sample.label for _, sample in samples) == list(range(sum(sizes)))
    assert samples == list(mixed(Counted(sizes), epoch, seed, shuffle))
    left_out = frozenset(number for number, _ in samples[::2])
    rest = [number for number, _ in mixed(Counted(sizes), epoch, seed, shuffle, left_out)]
    assert sorted(rest) == sorted(number for number, _ in samples[1::2])


def test_every_place_of_an_epoch_is_as_likely_for_every_example_of_a_shard() -> None:
    first = [next(mixed(Counted([6]), epoch, 0, 6))[1].label for epoch in range(1200)]
    assert all(150 < first.count(label) < 250 for label in range(6))


def test_a_buffer_reads_no_further_than_it_must() -> None:
    counted = Counted([5, 5, 5, 5])
    stream = mixed(counted, 1, 0, 4)
    next(stream)
    assert len(counted.reads) == 1


def test_only_its_own_examples_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = list[str]()

    def decode(image: bytes, *, form: ImageFormat, place: str) -> Any:
        decoded.append(place)
        return np.zeros(form, np.uint8)

    monkeypatch.setattr(shards, "decode", decode)
    stream = ShardedStream(Counted([12]), ImageFormat(3, 5, 4), 12)
    assert len(list(stream.batches(epoch=1, batch_size=2, seed=0, skip=1, rank=1, world=2))) == 2
    assert len(decoded) == 4
