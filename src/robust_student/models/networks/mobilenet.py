"""MobileNetV2 (Sandler et al. 2018, arXiv 1801.04381) for images of 32x32 pixels."""

from torch import Tensor, nn

from robust_student.core.tensors import Shape
from robust_student.models.networks.cnn import require_image

_STAGES = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""Expansion, channels, blocks and stride of each stage: table 2 with the strides of small images."""


class InvertedResidual(nn.Module):
    """1x1 expansion, 3x3 depthwise convolution, linear 1x1 projection; a shortcut where the shape stays the same."""

    def __init__(self, channels_in: int, channels_out: int, expansion: int, stride: int) -> None:
        """Build the block."""
        super().__init__()
        hidden = channels_in * expansion
        layers = [*_conv(channels_in, hidden, 1)] if expansion != 1 else []
        layers += _conv(hidden, hidden, 3, stride, groups=hidden)
        layers += [nn.Conv2d(hidden, channels_out, 1, bias=False), nn.BatchNorm2d(channels_out)]
        self.layers = nn.Sequential(*layers)
        self.shortcut = stride == 1 and channels_in == channels_out

    def forward(self, inputs: Tensor) -> Tensor:
        """F(x), plus x where the shapes agree."""
        return inputs + self.layers(inputs) if self.shortcut else self.layers(inputs)


def mobilenetv2(shape: Shape, classes: int, percent: int = 100) -> nn.Module:
    """MobileNetV2; `mobilenetv2:50` has half the channels.

    The layers are those of the paper's table 2; strides are 1 in the first convolution and the stage of 24 channels, as
    is usual for CIFAR, so that 32x32 pixels end as 4x4. 2.24M parameters with ten classes; implementations that
    report 2.30M add a 1x1 convolution to shortcuts that the paper does not have. `mobilenetv2:50` has 0.82M with a
    hundred classes: the half-width network of the distillation literature (0.81M). Channels are rounded to multiples
    of 8; the last convolution keeps 1280 channels where the width is reduced, as the paper says.
    """
    require_image(shape, "mobilenetv2")
    channels = _rounded(32 * percent / 100)
    layers: list[nn.Module] = [*_conv(shape[0], channels, 3)]
    for expansion, units, blocks, stride in _STAGES:
        for block in range(blocks):
            width = _rounded(units * percent / 100)
            layers.append(InvertedResidual(channels, width, expansion, stride if block == 0 else 1))
            channels = width
    last = _rounded(1280 * max(1.0, percent / 100))
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(last, classes))
    return nn.Sequential(*layers, *_conv(channels, last, 1), *head)


def _conv(channels_in: int, channels_out: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(channels_in, channels_out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [convolution, nn.BatchNorm2d(channels_out), nn.ReLU6()]


def _rounded(channels: float) -> int:
    """The nearest multiple of 8, at least 8 and at least nine tenths of what is asked for (as in the authors' code)."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * channels else nearest
