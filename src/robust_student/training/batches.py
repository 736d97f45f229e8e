"""Batches of a training set in the order of an epoch: this process's share, from any batch on."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from robust_student.core.errors import UserError
from robust_student.core.rng import step_seed
from robust_student.core.tensors import Inputs, Labels
from robust_student.data.examples import Examples
from robust_student.data.streams import Stream
from robust_student.runtime import distributed
from robust_student.training.settings import TrainingSettings

_STEPS, _LEAST_EPOCHS = 3000, 10
"""Of a training whose length nobody names."""


@dataclass(frozen=True, eq=False)
class MicroBatch:
    """Examples on the device that go through the network together."""

    inputs: Inputs
    """In the data's own units, such as pixels in [0, 1]."""
    labels: Labels
    examples: Labels
    """Each example's number in the training set: what its random draws, and its teacher scores, hang on."""


class Batches:
    """The steps of an epoch, each as the parts that this process accumulates.

    A step takes `batch_size` examples over all processes and parts: process r has the r-th share of them, cut into
    `accumulate` parts. The order of an epoch is a function of seed and epoch, so that a step can be taken up anywhere
    and is the same for any number of processes and parts.
    """

    def __init__(
        self, source: Examples | Stream, *, batch_size: int, accumulate: int, seed: int, device: torch.device
    ) -> None:
        """Batches of `source`, whose inputs are kept on the device where they are in memory.

        Raises UserError where a batch cannot be shared evenly among processes and parts.
        """
        self.source = source if isinstance(source, Stream) else source.to(device)
        self.batch_size = batch_size_for(len(source), batch_size, accumulate)
        self.accumulate, self.seed, self.device = accumulate, seed, device
        self.steps = max(1, len(source) // self.batch_size)

    def epoch(self, number: int, skip: int = 0) -> Iterator[list[MicroBatch]]:
        """The steps of epoch `number`, from 1, without the first `skip` of them."""
        if isinstance(self.source, Stream):
            yield from self._streamed(self.source, number, skip)
            return
        order = torch.Generator().manual_seed(step_seed(self.seed, number))
        permutation = torch.randperm(len(self.source), generator=order)
        for step in torch.split(permutation, self.batch_size)[skip : self.steps]:
            yield [self._part(self.source, positions) for positions in self._mine(step)]

    def _mine(self, step: Tensor) -> list[Tensor]:
        """This process's parts of a step's positions; a set smaller than a batch has one step of what there is."""
        share = torch.tensor_split(step, distributed.size())[distributed.rank()]
        return [part for part in torch.tensor_split(share, self.accumulate) if len(part) > 0]

    def _part(self, source: Examples, positions: Tensor) -> MicroBatch:
        there = positions.to(self.device)
        inputs = source.take(positions if source.mapped else there).to(self.device, non_blocking=True)
        inputs = inputs.float() / 255 if inputs.dtype == torch.uint8 else inputs
        return MicroBatch(inputs, source.labels[there], there)

    def _streamed(self, source: Stream, number: int, skip: int) -> Iterator[list[MicroBatch]]:
        share = self.batch_size // distributed.size()
        batches = source.batches(
            epoch=number, batch_size=share, seed=self.seed, skip=skip, rank=distributed.rank(), world=distributed.size()
        )
        for inputs, labels, examples in batches:
            there = [tensor.to(self.device, non_blocking=True) for tensor in (inputs, labels, examples)]
            there[0] = there[0].float() / 255 if there[0].dtype == torch.uint8 else there[0]
            parts = zip(*(torch.tensor_split(tensor, self.accumulate) for tensor in there), strict=True)
            yield [MicroBatch(*part) for part in parts]


def batch_size_for(count: int, batch_size: int, accumulate: int) -> int:
    """The size of a batch of `count` examples: at most a sixteenth of them, but 8 are always allowed.

    Raises UserError where a batch cannot be shared evenly among processes and parts.
    """
    pieces = distributed.size() * accumulate
    if batch_size % pieces:
        raise UserError(
            f"batch_size: {batch_size} examples cannot be shared evenly by {distributed.size()} processes with "
            f"{accumulate} parts each; take a multiple of {pieces}"
        )
    return max(pieces, min(batch_size, max(8, count // 16)) // pieces * pieces)


def planned_epochs(count: int, settings: TrainingSettings) -> int:
    """The epochs that are asked for, else as many as make 3,000 steps with `count` examples, but at least 10."""
    if settings.epochs is not None:
        return settings.epochs
    steps = max(1, count // batch_size_for(count, settings.batch_size, settings.accumulate))
    return max(_LEAST_EPOCHS, math.ceil(_STEPS / steps))
