"""The maxout teacher and the thin deep students of FitNets (Romero et al. 2015, arXiv 1412.6550, appendix A.1).

Where the paper leaves freedom: its text gives the fully connected maxout layer five linear pieces, but the sizes of its
table 5 (teacher 9M, FitNet 1 250K, FitNet 2 862K, FitNet 4 2.5M) are those of two. Two are the default here, and
`fitnet1:5` has five. FitNet 3 follows table 7: it has 1.50M parameters and 324M multiplications, where table 5 states
1.6M and 392M. The paper draws weights from U(-0.005, 0.005) and trains in two stages with hints; here they are normal
with variance 1 / fan-in, so that the networks train in one stage: for two independent pieces a and b of variance s^2,
E max(a, b)^2 = s^2, so that a maxout layer of two pieces passes the second moment of its input on.
"""

import math

from torch import Tensor, nn

from robust_student.core.tensors import Shape
from robust_student.models.networks.cnn import require_image

FITNETS: dict[str, tuple[tuple[int, ...], ...]] = {
    "fitnet1": ((16, 16, 16), (32, 32, 32), (48, 48, 64)),
    "fitnet2": ((16, 32, 32), (48, 64, 80), (96, 96, 128)),
    "fitnet3": ((32, 48, 64, 64), (80,) * 4, (128,) * 3),
    "fitnet4": ((32, 32, 32, 48, 48), (80,) * 6, (128,) * 6),
}
"""Channels of the 3x3 maxout convolutions between poolings (Romero et al. 2015, table 7)."""


class Maxout(nn.Module):
    """max_j (W_j x + b_j) over linear pieces j (Goodfellow et al. 2013); one layer computes them all."""

    def __init__(self, pieces: nn.Conv2d | nn.Linear, count: int) -> None:
        """Wrap a layer whose outputs are `count` pieces of each unit, next to each other; draws its weights."""
        super().__init__()
        self.pieces, self.count = pieces, count
        nn.init.normal_(pieces.weight, std=pieces.weight[0].numel() ** -0.5)
        if pieces.bias is not None:
            nn.init.zeros_(pieces.bias)

    def forward(self, inputs: Tensor) -> Tensor:
        """The largest piece of each unit."""
        return self.pieces(inputs).unflatten(1, (-1, self.count)).amax(2)


def maxout(shape: Shape, classes: int, pieces: int = 2) -> nn.Module:
    """The maxout teacher: convolutions of 96, 192 and 192 units with overlapping pooling, then 500 units.

    Goodfellow et al. 2013 for CIFAR-10, as FitNets uses it: kernels 8, 8 and 5 with padding 4, 3 and 3; pooling windows
    4, 4 and 2 with stride 2; two pieces per unit, `pieces` in the fully connected layer. 9.04M weights and 725M
    multiplications on 32x32 colour images, the paper's ~9M and ~725M. Its dropout and weight limits are left out.
    """
    require_image(shape, "maxout", 8)
    layers: list[nn.Module] = []
    channels, sides = shape[0], list(shape[1:])
    for units, kernel, padding, window in ((96, 8, 4, 4), (192, 8, 3, 4), (192, 5, 3, 2)):
        sides = [side + 2 * padding - kernel + 1 for side in sides]
        layers.append(Maxout(nn.Conv2d(channels, 2 * units, kernel, padding=padding), 2))
        layers.append(nn.MaxPool2d(window, 2, ceil_mode=True))
        sides = [math.ceil((side - window) / 2) + 1 for side in sides]
        channels = units
    return nn.Sequential(*layers, *_head(channels * math.prod(sides), classes, pieces))


def fitnet1(shape: Shape, classes: int, pieces: int = 2) -> nn.Module:
    """FitNet 1: 9 thin maxout convolutions; 250K weights on 32x32 colour images with ten classes."""
    return _fitnet("fitnet1", shape, classes, pieces)


def fitnet2(shape: Shape, classes: int, pieces: int = 2) -> nn.Module:
    """FitNet 2: 9 maxout convolutions; 862K weights on 32x32 colour images with ten classes."""
    return _fitnet("fitnet2", shape, classes, pieces)


def fitnet3(shape: Shape, classes: int, pieces: int = 2) -> nn.Module:
    """FitNet 3: 11 maxout convolutions; 1.50M weights on 32x32 colour images with ten classes."""
    return _fitnet("fitnet3", shape, classes, pieces)


def fitnet4(shape: Shape, classes: int, pieces: int = 2) -> nn.Module:
    """FitNet 4: 17 maxout convolutions; 2.5M weights on 32x32 colour images with ten classes."""
    return _fitnet("fitnet4", shape, classes, pieces)


def _fitnet(name: str, shape: Shape, classes: int, pieces: int) -> nn.Module:
    """3x3 maxout convolutions, 2x2 pooling between the stages, the maximum over all positions, 500 maxout units."""
    require_image(shape, name, 4)
    layers: list[nn.Module] = []
    channels = shape[0]
    for stage, widths in enumerate(FITNETS[name]):
        for width in widths:
            layers.append(Maxout(nn.Conv2d(channels, 2 * width, 3, padding=1), 2))
            channels = width
        layers.append(nn.MaxPool2d(2) if stage < 2 else nn.AdaptiveMaxPool2d(1))
    return nn.Sequential(*layers, *_head(channels, classes, pieces))


def _head(features: int, classes: int, pieces: int) -> list[nn.Module]:
    return [nn.Flatten(), Maxout(nn.Linear(features, 500 * pieces), pieces), nn.Linear(500, classes)]
