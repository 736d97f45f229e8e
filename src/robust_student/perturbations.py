"""Random perturbations: Gaussian noise at a stated signal-to-noise ratio."""

import math
import zlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from robust_student.tensors import InputRange, Inputs, PerExample, column


def signal_power(inputs: Inputs) -> PerExample:
    """P = mean over all elements of x^2, in squared input units, per example."""
    return inputs.flatten(1).square().mean(dim=1)


def gaussian_at_snr(inputs: Inputs, snr_db: float, input_range: InputRange, noise: Inputs) -> tuple[Inputs, PerExample]:
    """x + n clipped to the input range, with n = sigma * `noise` and sigma^2 = P / 10^(snr_db / 10).

    `noise` holds standard normal draws. Returns the noisy inputs and the realised SNR after clipping,
    `10 log10(P / mean((clip(x + n) - x)^2))` in dB per example. Examples with P = 0 have no SNR: they come back
    unchanged with a realised SNR of NaN, for the caller to exclude and count.
    """
    power = signal_power(inputs)
    sigma = (power / 10 ** (snr_db / 10)).sqrt()
    noisy = input_range.clip(inputs + column(sigma, inputs) * noise)
    realised = 10 * torch.log10(power / signal_power(noisy - inputs))
    return noisy, torch.where(power > 0, realised, math.nan)


def normal_per_example(shape: Sequence[int], seeds: Sequence[int]) -> Tensor:
    """Standard normal draws `(len(seeds), *shape)`, each example from its own seed: independent of any batching."""
    return torch.stack([torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed)) for seed in seeds])


def generators(seeds: Sequence[int], purpose: str, turn: int = 0) -> list[torch.Generator]:
    """One generator per example, independent between examples, purposes and turns (numpy's SeedSequence)."""
    key = zlib.crc32(purpose.encode())
    states = [np.random.SeedSequence([seed, key, turn]).generate_state(1)[0] for seed in seeds]
    return [torch.Generator().manual_seed(int(state)) for state in states]
