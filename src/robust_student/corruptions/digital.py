"""Corruptions of images in [0, 1] by light, geometry and storage; lengths are shares of the image's shorter side."""

import io
import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from robust_student.core.rng import normal_per_example, uniform_per_example
from robust_student.core.tensors import Images, Pixels
from robust_student.corruptions.blur import gaussian_smoothed
from robust_student.corruptions.resampling import displaced, pixel_offsets, side

_BRIGHTER = (0.06, 0.12, 0.19, 0.27, 0.36)
"""What is added to the value (the largest channel) of a pixel."""
_CONTRAST = (0.7, 0.52, 0.37, 0.25, 0.15)
"""Share of the contrast that is left."""
ELASTIC = (0.012, 0.02, 0.029, 0.039, 0.05)
"""Root mean square of the displacement, shares of the side."""
_STIFFNESS = 0.1
"""Length over which displacements agree (standard deviation of the smoothing Gaussian), share of the side."""
RESOLUTION = (0.75, 0.62, 0.5, 0.38, 0.25)
"""Pixels along a side after pixelation, share of those before."""
_QUALITY = (60, 40, 25, 15, 8)
"""JPEG quality as Pillow (libjpeg) counts it."""
ANGLES = (4.0, 8.0, 12.0, 16.0, 20.0)
"""Rotation in degrees, either way."""
SHIFTS = (0.03, 0.06, 0.09, 0.12, 0.15)
"""Length of the shift, shares of the side."""


def brightness(images: Images, severity: int, seeds: Sequence[int]) -> Images:
    """HSV value raised by c: x v' / v with v = max over channels and v' = min(v + c, 1); black becomes grey v'."""
    del seeds
    value = images.amax(dim=1, keepdim=True)
    raised = (value + _BRIGHTER[severity - 1]).clamp(max=1)
    return torch.where(value > 0, images * raised / value.clamp(min=torch.finfo(images.dtype).tiny), raised)


def contrast(images: Images, severity: int, seeds: Sequence[int]) -> Images:
    """mean + c (x - mean), the mean of each channel."""
    del seeds
    mean = images.mean(dim=(2, 3), keepdim=True)
    return mean + _CONTRAST[severity - 1] * (images - mean)


def elastic_transform(images: Images, severity: int, seeds: Sequence[int]) -> Images:
    """Every pixel displaced by a smooth random field of given root mean square (Simard et al. 2003)."""
    (height, width), unit = images.shape[2:], side(images)
    field = gaussian_smoothed(normal_per_example((2, height, width), seeds).to(images), _STIFFNESS * unit)
    size = field.square().sum(dim=1, keepdim=True).mean(dim=(2, 3), keepdim=True).sqrt()
    return displaced(images, (ELASTIC[severity - 1] * unit * field / size).permute(0, 2, 3, 1))


def pixelate(images: Images, severity: int, seeds: Sequence[int]) -> Images:
    """Box averages over fewer, larger pixels, shown at the old size."""
    del seeds
    down, right = (_coarse(length, RESOLUTION[severity - 1], images) for length in images.shape[2:])
    return down @ images @ right.T


def jpeg_compression(images: Images, severity: int, seeds: Sequence[int]) -> Images:
    """Through 8 bits and a JPEG file in memory: grey or RGB; other numbers of channels one by one."""
    del seeds
    pixels = (255 * images).round().clamp(0, 255).to(torch.uint8).cpu().permute(0, 2, 3, 1).numpy()
    if pixels.shape[3] == 3:
        read = [_through_jpeg(image, _QUALITY[severity - 1]) for image in pixels]
    else:
        read = [
            np.stack([_through_jpeg(image[:, :, c], _QUALITY[severity - 1]) for c in range(image.shape[2])], axis=2)
            for image in pixels
        ]
    return torch.from_numpy(np.stack(read)).to(images).permute(0, 3, 1, 2).contiguous() / 255


def rotate(images: Images, severity: int, seeds: Sequence[int]) -> Images:
    """Turned about the centre by a fixed angle, left or right at random; the edge's pixels fill the corners."""
    sign = torch.where(uniform_per_example((1,), seeds)[:, 0] < 0.5, -1.0, 1.0).to(images)
    angle = sign * math.radians(ANGLES[severity - 1])
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    right, down = pixel_offsets(images).unbind(dim=2)
    turned = torch.stack([cos * right - sin * down, sin * right + cos * down], dim=3)
    return displaced(images, turned - pixel_offsets(images), edge="border")


def shift(images: Images, severity: int, seeds: Sequence[int]) -> Images:
    """Moved by a fixed length in a random direction; the edge's pixels fill what becomes free."""
    angle = 2 * math.pi * uniform_per_example((1,), seeds).to(images)[:, 0]
    offset = SHIFTS[severity - 1] * side(images) * torch.stack([angle.cos(), angle.sin()], dim=1)
    return displaced(images, offset[:, None, None].expand(-1, *images.shape[2:], -1), edge="border")


def _coarse(length: int, share: float, like: Tensor) -> Tensor:
    """The matrix `(length, length)` that averages over round(share * length) equal boxes and back over the pixels."""
    count = max(1, round(share * length))
    edges = torch.arange(count + 1, dtype=torch.float64) * length / count
    starts = torch.arange(length, dtype=torch.float64)
    shared = (torch.minimum(edges[1:, None], starts + 1) - torch.maximum(edges[:-1, None], starts)).clamp(min=0)
    return (shared.T @ shared * count / length).to(like)


def _through_jpeg(pixels: Pixels, quality: int) -> Pixels:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "JPEG", quality=quality)
    with Image.open(buffer) as image:
        return np.asarray(image)
