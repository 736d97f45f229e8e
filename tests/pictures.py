"""Random pictures, and slow oracles that look up their pixels elsewhere."""

import math
from collections.abc import Callable

import numpy as np
import torch
from reference import as_numpy
from reference_norm import Array
from scipy import integrate, ndimage, stats

from robust_student.core.tensors import Images, Shape

SEEDS = [3, 2**62, 11]


def pictures(channels: int = 3, height: int = 12, width: int = 10, dtype: torch.dtype = torch.float64) -> Images:
    return torch.rand((3, channels, height, width), generator=torch.Generator().manual_seed(0), dtype=dtype)


def draws(shape: Shape, seed: int, kind: Callable[..., torch.Tensor] = torch.rand) -> Array:
    return as_numpy(kind(shape, generator=torch.Generator().manual_seed(seed)))


def look(image: Array, right: Array, down: Array, mode: str) -> Array:
    """A picture `(height, width)` interpolated at every pixel plus its offset."""
    rows, columns = np.mgrid[: image.shape[0], : image.shape[1]]
    return ndimage.map_coordinates(image, [rows + down, columns + right], order=1, mode=mode)


def mean_look(image: Array, points: list[tuple[float, float]]) -> Array:
    zero = np.zeros(image.shape)
    return np.mean([look(image, zero + right, zero + down, "mirror") for right, down in points], axis=0)


def gaussian_oracle(image: Array, sigma: float) -> Array:
    """Weights by quadrature of the normal density times the hat of linear interpolation."""
    reach = math.ceil(3 * sigma)
    weights = [
        integrate.quad(lambda t, k=k: stats.norm.pdf(t, scale=sigma) * max(0.0, 1 - abs(t - k)), k - 1, k + 1)[0]
        for k in range(-reach, reach + 1)
    ]
    kernel = np.array(weights) / sum(weights)
    return ndimage.correlate1d(ndimage.correlate1d(image, kernel, 0, mode="mirror"), kernel, 1, mode="mirror")
