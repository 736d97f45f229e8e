"""Random numbers for training that depend on seed, step and example alone: not on batch, process or device."""

import zlib
from collections.abc import Sequence
from copy import copy
from functools import cached_property
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from robust_student.core.tensors import Shape


def example_seeds(seed: int, indices: list[int]) -> list[int]:
    """One seed per example, independent of batching and of the model."""
    return [(seed * 1_000_003 + index) % 2**63 for index in indices]


def generator_each(seeds: Sequence[int]) -> list[torch.Generator]:
    """One generator on the CPU per seed; torch tells seeds apart by their last 32 bits only."""
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def normal_per_example(shape: Sequence[int], seeds: Sequence[int]) -> Tensor:
    """Standard normal draws `(len(seeds), *shape)`, each example from its own seed: independent of any batching."""
    return torch.stack([torch.randn(tuple(shape), generator=generator) for generator in generator_each(seeds)])


def generators(seeds: Sequence[int], purpose: str, turn: int = 0) -> list[torch.Generator]:
    """One generator per example, independent between examples, purposes and turns (numpy's SeedSequence)."""
    key = zlib.crc32(purpose.encode())
    return generator_each([int(np.random.SeedSequence([seed, key, turn]).generate_state(1)[0]) for seed in seeds])


def uniform_per_example(shape: Sequence[int], seeds: Sequence[int]) -> Tensor:
    """Uniform draws on [0, 1), `(len(seeds), *shape)`, each example from its own seed: independent of any batching."""
    return torch.stack([torch.rand(tuple(shape), generator=generator) for generator in generator_each(seeds)])


_MASK = 0xFFFFFFFF
_STEP, _TURN, _COUNTER = 0x9E3779B9, 0x85EBCA6B, 0xC2B2AE35  # odd constants that keep the counters apart


class ExampleRng:
    """A source of random numbers that gives each example its own, whichever batch it is in.

    A counter-based generator: element k of example e in draw number t of a step is `mix((mix(k c + t') ^ a) + b)`,
    where mix is the 32-bit integer hash lowbias32 (C. Wellons, "Prospecting for hash functions", 2018), t' a hash of
    t, and a, b are hashes of (seed, step, e). Splitting a batch over processes or micro-batches does not change what
    an example gets, nor does the device, up to the rounding of logarithms and cosines. Not for cryptography.
    """

    def __init__(self, seed: int, step: int, examples: Int64[Tensor, " batch"]) -> None:
        """Numbers for one training step of the examples with these numbers in the training set."""
        self._base = _mix_int(_mix_int(seed & _MASK) + _mix_int((seed >> 32) & _MASK) + step * _STEP)
        self._examples = examples
        self._turn = 0

    def among(self, chosen: Bool[Tensor, " batch"]) -> "ExampleRng":
        """The same source for the chosen examples alone: they draw what they would draw in the whole batch."""
        other = copy(self)
        other._examples = self._examples[chosen]
        other.__dict__.pop("_keys", None)
        return other

    @cached_property
    def _keys(self) -> tuple[Tensor, Tensor]:
        """The hashes a and b; only made where a number is drawn, which plain distillation never does."""
        low, high = self._examples & _MASK, self._examples >> 32
        first = _mix(_int32(low) + _signed(self._base))
        return first, _mix(_mix(first + _signed(_STEP)) + _int32(high))

    def uniform(self, shape: Shape, dtype: torch.dtype = torch.float32) -> Float[Tensor, "batch *shape"]:
        """Independent uniform numbers in [0, 1) with 24 random bits; the first dimension of `shape` is the batch's."""
        size = 1
        for length in shape[1:]:
            size *= length
        turn = _signed(_mix_int(self._turn * _TURN + 1))
        self._turn += 1
        first, second = self._keys
        counter = torch.arange(size, dtype=torch.int32, device=first.device)
        columns = _mix(counter * _signed(_COUNTER) + turn)
        bits = _mix((columns ^ first[:, None]) + second[:, None])
        return (bits >> 8).bitwise_and_(0xFFFFFF).to(dtype).mul_(2.0**-24).view(shape)

    def normal(self, shape: Shape, dtype: torch.dtype = torch.float32) -> Float[Tensor, "batch *shape"]:
        """Independent standard normal numbers, sqrt(-2 ln(1 - u)) cos(2 pi v) (Box & Muller 1958)."""
        radius = torch.log1p(-self.uniform(shape, dtype)).mul_(-2).sqrt_()
        return radius * torch.cos(self.uniform(shape, dtype).mul_(2 * torch.pi))


Source: TypeAlias = torch.Generator | ExampleRng | None
"""Where random numbers come from: a generator, per-example draws, or PyTorch's global generator."""


def uniform(shape: Shape, like: Tensor, source: Source) -> Tensor:
    """Uniform numbers in [0, 1) of the given shape on the device and in the type of `like`."""
    if isinstance(source, ExampleRng):
        return source.uniform(shape, like.dtype)
    return torch.rand(shape, generator=source, device=like.device, dtype=like.dtype)


def normal(shape: Shape, like: Tensor, source: Source) -> Tensor:
    """Standard normal numbers of the given shape on the device and in the type of `like`."""
    if isinstance(source, ExampleRng):
        return source.normal(shape, like.dtype)
    return torch.randn(shape, generator=source, device=like.device, dtype=like.dtype)


def step_seed(seed: int, step: int, rank: int = 0) -> int:
    """A seed of 32 bits for the global generators in one step of one process (dropout, a network's own draws)."""
    return _mix_int(_mix_int(seed & _MASK) + step * _STEP + rank * _TURN)


def seed_generators(seed: int, device: torch.device) -> None:
    """Seed PyTorch's global generators as far as a training on `device` uses them.

    For a training on the CPU that is the CPU's alone: `torch.manual_seed` also notes the seed, with a stack trace, for
    devices that are not there, in every step.
    """
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


def _mix(values: Tensor) -> Tensor:
    """The hash lowbias32 of 32-bit integers; shifts are logical."""
    values = values ^ (values >> 16).bitwise_and_(0xFFFF)
    values *= _signed(0x7FEB352D)
    values ^= (values >> 15).bitwise_and_(0x1FFFF)
    values *= _signed(0x846CA68B)
    values ^= (values >> 16).bitwise_and_(0xFFFF)
    return values


def _mix_int(value: int) -> int:
    value &= _MASK
    value = ((value ^ (value >> 16)) * 0x7FEB352D) & _MASK
    value = ((value ^ (value >> 15)) * 0x846CA68B) & _MASK
    return value ^ (value >> 16)


def _int32(values: Tensor) -> Tensor:
    """The low 32 bits as a signed 32-bit integer."""
    values = values & _MASK
    return torch.where(values >= 2**31, values - 2**32, values).to(torch.int32)


def _signed(value: int) -> int:
    value &= _MASK
    return value - 2**32 if value >= 2**31 else value
