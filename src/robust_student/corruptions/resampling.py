"""Images between their pixels: bilinear look-ups and averages over clouds of offsets, lengths in pixels."""

from typing import Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from robust_student.core.tensors import Images

Offsets: TypeAlias = Float[Tensor, "batch height width 2"]
"""Where each pixel looks, relative to itself, in pixels: (right, down)."""
Kernels: TypeAlias = Float[Tensor, "kernels rows columns"]
"""Averaging weights, one kernel for all images or one per image; the middle is the pixel itself."""


def pixel_offsets(images: Images) -> Float[Tensor, "height width 2"]:
    """Position of every pixel's centre relative to the centre of the image, in pixels: (right, down)."""
    height, width = images.shape[2:]
    down = torch.arange(height, dtype=images.dtype, device=images.device) - (height - 1) / 2
    right = torch.arange(width, dtype=images.dtype, device=images.device) - (width - 1) / 2
    return torch.stack([right[None, :].expand(height, -1), down[:, None].expand(-1, width)], dim=2)


def displaced(images: Images, offsets: Offsets, edge: Literal["border", "reflection"] = "reflection") -> Images:
    """Every pixel p replaced by the bilinear interpolation of its image at p + offset.

    Beyond the edge the image continues with its outermost pixels (`border`) or mirrored (`reflection`).
    """
    height, width = images.shape[2:]
    size = torch.tensor([width, height], dtype=images.dtype, device=images.device)
    grid = 2 * (pixel_offsets(images) + offsets) / size
    return functional.grid_sample(images, grid, mode="bilinear", padding_mode=edge, align_corners=False)


def averaging_kernels(points: Float[Tensor, "kernels points 2"], reach: int) -> Kernels:
    """Kernels that average the bilinearly interpolated image over points (right, down) around each pixel.

    The weight of a neighbour k is the mean over the points p of hat(p_x - k_x) hat(p_y - k_y), hat(t) = [1 - |t|]_+: a
    blur of less than a pixel is a blur too, and strength is continuous. No point may lie further than `reach` pixels.
    """
    cells = torch.arange(-reach, reach + 1, dtype=points.dtype, device=points.device)
    hats = (1 - (points[..., None] - cells).abs()).clamp(min=0)
    return torch.einsum("kpj,kpi->kij", hats[:, :, 0], hats[:, :, 1]) / points.shape[1]


def weighted_averages(images: Images, kernels: Kernels) -> Images:
    """Every pixel replaced by the weighted average of its neighbours, the image mirrored at its edges."""
    batch, channels = images.shape[:2]
    down, right = (length // 2 for length in kernels.shape[1:])
    padded = functional.pad(images, (right, right, down, down), mode="reflect")
    own = kernels.expand(batch, -1, -1).repeat_interleave(channels, dim=0)[:, None]
    return functional.conv2d(padded.flatten(0, 1)[None], own, groups=batch * channels).view_as(images)


def side(images: Images) -> int:
    """The shorter side in pixels, the unit of every length that scales with the image."""
    return min(images.shape[2:])
