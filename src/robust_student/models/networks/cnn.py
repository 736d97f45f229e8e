"""Plain convolutional networks for images, and the check that inputs are images."""

import math

from torch import nn

from robust_student.core.errors import UserError
from robust_student.core.tensors import Shape


def cnn(shape: Shape, classes: int, width: int = 16) -> nn.Module:
    """Three convolutions of width, 2 width and 4 width channels (ReLU, max pooling) and a linear layer; no BatchNorm.

    The first is 5x5 with stride 2, or 3x3 with stride 1 on images of at most 16 pixels; the others are 3x3 and followed
    by 2x2 pooling. Averages of at most 4x4 positions reach the linear layer. `cnn:8` has width 8 (8,906 parameters
    on 28x28 grey images with ten classes).
    """
    require_image(shape, "cnn", 4)
    small = min(shape[1:]) <= 16
    stem = nn.Conv2d(shape[0], width, 3, padding=1) if small else nn.Conv2d(shape[0], width, 5, stride=2, padding=2)
    features = nn.Sequential(
        *(stem, nn.ReLU()),
        *(nn.Conv2d(width, 2 * width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(2 * width, 4 * width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
    )
    sides = [(side if small else (side + 1) // 2) // 4 for side in shape[1:]]
    grid = [min(4, side) for side in sides]
    layers: list[nn.Module] = [*features, nn.AdaptiveAvgPool2d((grid[0], grid[1]))] if grid != sides else [*features]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(4 * width * math.prod(grid), classes))


def convnet(shape: Shape, classes: int, width: int = 16) -> nn.Module:
    """Three blocks of 3x3 convolution, BatchNorm, ReLU and 2x2 max pooling, of width, 2 width and 4 width channels.

    Pooling stops when a side is down to one pixel. The plain ConvNet of few-shot studies (Gidaris & Komodakis 2018)
    with growing width; a linear layer reads the last block. `convnet:16` has 33,946 parameters on 32x32
    RGB images with ten classes.
    """
    require_image(shape, "convnet")
    layers: list[nn.Module] = []
    height, length = shape[1:]
    for inputs, outputs in zip((shape[0], width, 2 * width), (width, 2 * width, 4 * width), strict=True):
        layers.append(conv_block(inputs, outputs, 1))
        if min(height, length) > 1:
            layers.append(nn.MaxPool2d(2))
            height, length = height // 2, length // 2
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(4 * width * height * length, classes))


def conv_block(channels_in: int, channels_out: int, stride: int) -> nn.Sequential:
    """3x3 convolution without bias, BatchNorm, ReLU."""
    convolution = nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(channels_out), nn.ReLU())


def require_image(shape: Shape, name: str, side: int = 1) -> None:
    """Raise UserError where inputs are not images of at least `side` x `side` pixels."""
    if len(shape) != 3:
        raise UserError(f"model '{name}': needs images (channels, height, width), not inputs of shape {shape}; use mlp")
    if min(shape[1:]) < side:
        raise UserError(f"model '{name}': needs images of at least {side}x{side} pixels, not {shape[1]}x{shape[2]}")
