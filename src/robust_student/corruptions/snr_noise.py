"""Random perturbations: Gaussian, uniform and impulse noise at a stated signal-to-noise ratio."""

import math
from typing import Literal

import torch

from robust_student.core.errors import UserError
from robust_student.core.tensors import InputRange, Inputs, PerExample, Size, column
from robust_student.core.threat_model import FeatureRange

NoiseName = Literal["gaussian", "uniform", "impulse"]


def signal_power(inputs: Inputs) -> PerExample:
    """P = mean over all elements of x^2, in squared input units, per example."""
    return inputs.flatten(1).square().mean(dim=1)


def gaussian_at_snr(
    inputs: Inputs, snr_db: Size, input_range: InputRange | FeatureRange, noise: Inputs
) -> tuple[Inputs, PerExample]:
    """x + n clipped to the input range, with n = sigma * `noise` and sigma^2 = P / 10^(snr_db / 10).

    `noise` holds standard normal draws. Returns the noisy inputs and the realised SNR after clipping,
    `10 log10(P / mean((clip(x + n) - x)^2))` in dB per example. Examples with P = 0 have no SNR: they come back
    unchanged with a realised SNR of NaN, for the caller to exclude and count.
    """
    power = signal_power(inputs)
    sigma = (power / 10 ** (snr_db / 10)).sqrt()
    noisy = input_range.clip(inputs + column(sigma, inputs) * noise)
    return noisy, _realised(inputs, noisy)


def uniform_at_snr(inputs: Inputs, snr_db: float, input_range: InputRange, draws: Inputs) -> tuple[Inputs, PerExample]:
    """As `gaussian_at_snr`, with n = sigma sqrt(3) (2 u - 1) for `draws` u uniform on [0, 1]."""
    return gaussian_at_snr(inputs, snr_db, input_range, math.sqrt(3) * (2 * draws - 1))


def impulse_at_snr(inputs: Inputs, snr_db: float, input_range: InputRange, draws: Inputs) -> tuple[Inputs, PerExample]:
    """A share of the elements replaced by the lower or upper end l or u of the range, with probability one half each.

    The share makes the expected mean squared change P / 10^(snr_db / 10): that over the mean of ((l - x)^2 + (u - x)^2)
    / 2, at most 1, so a lower SNR than that of black and white noise cannot be reached. `draws` are uniform on [0, 1].
    Returns noisy inputs and realised SNR as `gaussian_at_snr`; UserError where the range is unbounded.
    """
    if not input_range.bounded:
        raise UserError("noise: impulses need inputs with a range; leave impulse noise out")
    lower, upper = input_range
    target_power = signal_power(inputs) / 10 ** (snr_db / 10)
    change = (signal_power(inputs - lower) + signal_power(inputs - upper)) / 2
    share = column((target_power / change).clamp(max=1), inputs)
    noisy = inputs.masked_fill(draws < share, lower).masked_fill(draws < share / 2, upper)
    return noisy, _realised(inputs, noisy)


def _realised(inputs: Inputs, noisy: Inputs) -> PerExample:
    """SNR in dB of what was done, NaN where there is no signal."""
    power = signal_power(inputs)
    return torch.where(power > 0, 10 * torch.log10(power / signal_power(noisy - inputs)), math.nan)
