"""Order and sharing of training examples."""

from collections.abc import Iterator

import pytest
import torch
from reference import message_of
from torch import Tensor

from robust_student.data.examples import Examples
from robust_student.data.streams import Stream
from robust_student.runtime import distributed
from robust_student.training.batches import Batches, MicroBatch

CPU = torch.device("cpu")


def examples(count: int) -> Examples:
    """Example k is an image of pixels k, of class k modulo 5."""
    numbers = torch.arange(count)
    return Examples(numbers.to(torch.uint8)[:, None, None, None].expand(-1, 1, 2, 2).contiguous(), numbers % 5)


def batches(source: Examples | Stream, batch_size: int = 8, accumulate: int = 1, seed: int = 0) -> Batches:
    return Batches(source, batch_size=batch_size, accumulate=accumulate, seed=seed, device=CPU)


def numbers(steps: list[list[MicroBatch]]) -> list[list[list[int]]]:
    return [[part.examples.tolist() for part in parts] for parts in steps]


def test_an_epoch_is_whole_batches_of_a_permutation_and_each_part_holds_what_it_says() -> None:
    seen = [numbers(list(batches(examples(200)).epoch(epoch))) for epoch in (1, 2)]
    for epoch in seen:
        flat = [k for parts in epoch for part in parts for k in part]
        assert len(epoch) == 25 and len(flat) == len(set(flat)) == 200 and flat != sorted(flat)
    assert seen[0] != seen[1]
    for parts in batches(examples(200)).epoch(1):
        for part in parts:
            assert torch.equal(part.inputs, (part.examples.float() / 255)[:, None, None, None].expand(-1, 1, 2, 2))
            assert torch.equal(part.labels, part.examples % 5)
    assert numbers(list(batches(examples(200), seed=1).epoch(1))) != seen[0]


def test_any_step_can_be_the_first() -> None:
    whole = numbers(list(batches(examples(100)).epoch(3)))
    for skip in range(len(whole) + 1):
        assert numbers(list(batches(examples(100)).epoch(3, skip))) == whole[skip:]


@pytest.mark.parametrize(("processes", "accumulate"), [(1, 2), (2, 1), (2, 4), (4, 2)])
def test_processes_and_parts_share_the_very_step_of_a_single_one(
    processes: int, accumulate: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = [sorted(parts[0]) for parts in numbers(list(batches(examples(200)).epoch(1)))]
    shared: list[list[int]] = [[] for _ in whole]
    monkeypatch.setattr(distributed, "size", lambda: processes)
    for process in range(processes):
        monkeypatch.setattr(distributed, "rank", lambda process=process: process)
        for step, parts in enumerate(numbers(list(batches(examples(200), accumulate=accumulate).epoch(1)))):
            assert [len(part) for part in parts] == [8 // processes // accumulate] * accumulate
            shared[step] += [k for part in parts for k in part]
    assert [sorted(step) for step in shared] == whole


def test_a_batch_that_cannot_be_shared_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "size", lambda: 3)
    assert "take a multiple of 6" in message_of(lambda: batches(examples(99), batch_size=8, accumulate=2))


@pytest.mark.parametrize(("count", "batch_size", "size"), [(2000, 500, 125), (100, 500, 8), (2000, 64, 64), (5, 64, 8)])
def test_a_small_set_has_small_batches(count: int, batch_size: int, size: int) -> None:
    assert batches(examples(count), batch_size=batch_size).batch_size == size


def test_a_set_smaller_than_a_batch_is_one_step() -> None:
    assert [len(parts[0]) for parts in numbers(list(batches(examples(5), batch_size=64).epoch(1)))] == [5]


class Numbers(Stream):
    """A stream of numbers that notes how it was asked."""

    shape, length = (1,), 320

    def __init__(self) -> None:
        self.asked: list[tuple[int, ...]] = []

    def batches(
        self, *, epoch: int, batch_size: int, seed: int, skip: int = 0, rank: int = 0, world: int = 1
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        self.asked.append((epoch, batch_size, seed, skip, rank, world))
        for step in range(skip, self.length // (batch_size * world)):
            first = (step * world + rank) * batch_size
            numbers = torch.arange(first, first + batch_size)
            yield numbers.to(torch.uint8)[:, None], numbers % 3, numbers


def test_a_stream_is_asked_for_this_processs_share(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Numbers()
    whole = numbers(list(batches(stream, batch_size=16, accumulate=2, seed=7).epoch(2, skip=3)))
    assert stream.asked == [(2, 16, 7, 3, 0, 1)]
    assert whole[0] == [list(range(48, 56)), list(range(56, 64))] and len(whole) == 17
    monkeypatch.setattr(distributed, "size", lambda: 2)
    monkeypatch.setattr(distributed, "rank", lambda: 1)
    steps = list(batches(stream, batch_size=16).epoch(1))
    assert stream.asked[-1] == (1, 8, 0, 0, 1, 2) and steps[0][0].examples.tolist() == list(range(8, 16))
    assert float(steps[0][0].inputs[0]) == pytest.approx(8 / 255)
