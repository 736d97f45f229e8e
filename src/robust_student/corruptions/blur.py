"""Blur corruptions of images in [0, 1]; lengths are shares of the image's shorter side."""

import math
from collections.abc import Sequence

import torch

from robust_student.core.rng import uniform_per_example
from robust_student.core.tensors import Images
from robust_student.corruptions.resampling import (
    averaging_kernels,
    displaced,
    pixel_offsets,
    side,
    weighted_averages,
)

GAUSSIAN = (0.012, 0.018, 0.027, 0.038, 0.052)
"""Standard deviation of the Gaussian, shares of the side."""
DISC = (0.018, 0.027, 0.04, 0.055, 0.075)
"""Radius of the disc of confusion (defocus), shares of the side."""
TRACK = (0.06, 0.09, 0.13, 0.18, 0.24)
"""Length of the track (motion), shares of the side."""
SCATTER = (0.025, 0.037, 0.052, 0.07, 0.09)
"""Largest displacement behind glass, shares of the side."""
ZOOM = (0.08, 0.13, 0.19, 0.26, 0.34)
"""Largest magnification minus 1 (zoom)."""


def gaussian_blur(images: Images, severity: int, seeds: Sequence[int]) -> Images:
    """Average over a normal cloud of standard deviation sigma, cut at 3 sigma."""
    del seeds
    return gaussian_smoothed(images, GAUSSIAN[severity - 1] * side(images))


def defocus_blur(images: Images, severity: int, seeds: Sequence[int]) -> Images:
    """Average over a disc of radius r."""
    del seeds
    radius = DISC[severity - 1] * side(images)
    line = torch.linspace(-1, 1, 2 * math.ceil(4 * radius) + 25, dtype=images.dtype, device=images.device)
    points = torch.cartesian_prod(line, line)
    points = points[points.square().sum(dim=1) <= 1]
    return weighted_averages(images, averaging_kernels(radius * points[None], math.ceil(radius)))


def motion_blur(images: Images, severity: int, seeds: Sequence[int]) -> Images:
    """Average over a segment of length L through the pixel, at an angle drawn from [-45, 45] degrees per image."""
    length = TRACK[severity - 1] * side(images)
    angles = (uniform_per_example((1,), seeds).to(images) - 0.5) * math.pi / 2
    return along(images, angles, length)


def along(images: Images, angles: torch.Tensor, length: float) -> Images:
    """Average over a segment of `length` pixels at one angle per image, `angles` `(batch, 1)` in radians."""
    count = 4 * math.ceil(length) + 8
    steps = length * ((torch.arange(count, dtype=images.dtype, device=images.device) + 0.5) / count - 0.5)
    points = torch.stack([angles.cos() * steps, angles.sin() * steps], dim=2)
    return weighted_averages(images, averaging_kernels(points, math.ceil(length / 2)))


def glass_blur(images: Images, severity: int, seeds: Sequence[int]) -> Images:
    """Every pixel looks up to d pixels away in a random direction of its own; then a Gaussian of d / 4 smooths."""
    reach, (height, width) = SCATTER[severity - 1] * side(images), images.shape[2:]
    draws = 2 * uniform_per_example((height, width, 2), seeds).to(images) - 1
    return gaussian_smoothed(displaced(images, reach * draws), reach / 4)


def zoom_blur(images: Images, severity: int, seeds: Sequence[int]) -> Images:
    """Average over magnifications from 1 to 1 + z about the centre, in steps of at most a pixel at the edge."""
    del seeds
    zoom, centred = ZOOM[severity - 1], pixel_offsets(images)
    count = max(8, math.ceil(zoom * max(images.shape[2:]) / 2))
    total = images.clone()
    for factor in torch.linspace(1, 1 + zoom, count + 1).tolist()[1:]:
        total += displaced(images, (centred * (1 / factor - 1)).expand(len(images), -1, -1, -1))
    return total / (count + 1)


def gaussian_smoothed(images: Images, sigma: float) -> Images:
    """Average over a normal cloud of `sigma` pixels cut at 3 sigma, first along rows, then along columns."""
    probabilities = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    line = (sigma * torch.special.ndtri(probabilities)).clamp(-3 * sigma, 3 * sigma).to(images)
    reach = math.ceil(3 * sigma)
    row = averaging_kernels(torch.stack([line, torch.zeros_like(line)], dim=1)[None], reach)[:, reach : reach + 1]
    return weighted_averages(weighted_averages(images, row), row.mT)
