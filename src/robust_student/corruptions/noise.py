"""Noise corruptions of images in [0, 1]: every element on its own, so the size of the image does not matter."""

import math
from collections.abc import Sequence

import torch

from robust_student.core.rng import generator_each, normal_per_example, uniform_per_example
from robust_student.core.tensors import Images

DEVIATIONS = (0.04, 0.06, 0.09, 0.13, 0.19)
"""Standard deviation of Gaussian and of uniform noise."""
PHOTONS = (300.0, 120.0, 60.0, 30.0, 15.0)
"""Photons that white stands for (shot noise)."""
_REPLACED = (0.01, 0.02, 0.04, 0.07, 0.12)
"""Share of the elements that become black or white (impulse noise)."""


def gaussian_noise(images: Images, severity: int, seeds: Sequence[int]) -> Images:
    """x + sigma n, n standard normal."""
    return images + DEVIATIONS[severity - 1] * normal_per_example(images.shape[1:], seeds).to(images)


def uniform_noise(images: Images, severity: int, seeds: Sequence[int]) -> Images:
    """x + sigma sqrt(3) (2 u - 1), u uniform on [0, 1]: the same deviation as Gaussian noise."""
    draws = 2 * uniform_per_example(images.shape[1:], seeds).to(images) - 1
    return images + DEVIATIONS[severity - 1] * math.sqrt(3) * draws


def shot_noise(images: Images, severity: int, seeds: Sequence[int]) -> Images:
    """Poisson(L x) / L with L photons for white: the darker, the less noise."""
    photons = PHOTONS[severity - 1]
    rates = (photons * images).clamp(min=0).cpu()
    generators = generator_each(seeds)
    counts = [torch.poisson(rate, generator=generator) for rate, generator in zip(rates, generators, strict=True)]
    return torch.stack(counts).to(images) / photons


def impulse_noise(images: Images, severity: int, seeds: Sequence[int]) -> Images:
    """A share of the elements replaced by 0 or 1, each with probability one half (salt and pepper)."""
    share, draws = _REPLACED[severity - 1], uniform_per_example(images.shape[1:], seeds).to(images)
    return images.masked_fill(draws < share, 0.0).masked_fill(draws < share / 2, 1.0)
