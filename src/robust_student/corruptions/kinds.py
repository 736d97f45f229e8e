"""Common corruptions of images in the style of ImageNet-C (Hendrycks & Dietterich 2019); the severities are ours."""

import zlib
from collections.abc import Callable, Mapping, Sequence

from robust_student.core.errors import UserError, nearest
from robust_student.core.tensors import Images, InputRange, Inputs
from robust_student.corruptions import blur, digital, noise, weather

SEVERITIES = (1, 2, 3, 4, 5)
SMALLEST_SIDE = 8
"""Pixels along the shorter side from which the severities are calibrated."""

IMAGENET_C: Mapping[str, Callable[[Images, int, Sequence[int]], Images]] = {
    "gaussian_noise": noise.gaussian_noise,
    "shot_noise": noise.shot_noise,
    "impulse_noise": noise.impulse_noise,
    "defocus_blur": blur.defocus_blur,
    "glass_blur": blur.glass_blur,
    "motion_blur": blur.motion_blur,
    "zoom_blur": blur.zoom_blur,
    "snow": weather.snow,
    "frost": weather.frost,
    "fog": weather.fog,
    "brightness": digital.brightness,
    "contrast": digital.contrast,
    "elastic_transform": digital.elastic_transform,
    "pixelate": digital.pixelate,
    "jpeg_compression": digital.jpeg_compression,
}
"""The fifteen kinds of ImageNet-C: (images in [0, 1], severity from 1 to 5, one seed per image) -> images."""
CORRUPTIONS: Mapping[str, Callable[[Images, int, Sequence[int]], Images]] = {
    **IMAGENET_C,
    "uniform_noise": noise.uniform_noise,
    "gaussian_blur": blur.gaussian_blur,
    "rotate": digital.rotate,
    "shift": digital.shift,
}
"""Every kind: the fifteen and four of our own."""


def corrupt(kind: str, inputs: Inputs, severity: int, seeds: Sequence[int], input_range: InputRange) -> Inputs:
    """The images under one kind of corruption, clipped to the input range, in their dtype and on their device.

    The result depends on the image, the severity and the image's own seed, not on the batch. A kind uses the same draws
    at every severity. Raises UserError for an unknown kind or severity and for inputs that are not images with a range.

    Args:
        kind: a name in `CORRUPTIONS`.
        inputs: images `(batch, channels, height, width)`, each side at least `SMALLEST_SIDE` pixels.
        severity: 1 to 5.
        seeds: one per image.
        input_range: black and white.
    """
    if kind not in CORRUPTIONS:
        raise UserError(f"corruption: unknown kind '{kind}'" + nearest(kind, list(CORRUPTIONS)))
    if severity not in SEVERITIES:
        raise UserError(f"corruption {kind}: severity {severity} is not one of 1, 2, 3, 4, 5")
    require_images(inputs.shape[1:], input_range)
    if len(seeds) != len(inputs):
        raise ValueError(f"corruption {kind}: {len(seeds)} seeds for {len(inputs)} images")
    own = zlib.crc32(kind.encode())
    images = (inputs - input_range.lower) / input_range.width
    changed = CORRUPTIONS[kind](images, severity, [(seed + own) % 2**63 for seed in seeds])
    return input_range.clip(input_range.lower + input_range.width * changed)


def require_images(shape: Sequence[int], input_range: InputRange) -> None:
    """UserError unless inputs of this shape and range are images that can be corrupted."""
    if len(shape) != 3 or min(shape[1:]) < SMALLEST_SIDE:
        raise UserError(
            f"corruptions: inputs of shape {tuple(shape)} are not images (channels, height, width) of at least "
            f"{SMALLEST_SIDE}x{SMALLEST_SIDE} pixels; leave corruptions out"
        )
    if not input_range.bounded:
        raise UserError("corruptions: the inputs have no range, so no black and white; leave corruptions out")
