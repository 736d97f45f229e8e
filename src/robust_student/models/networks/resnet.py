"""Residual networks for small images: ResNet (He et al. 2015) and wide ResNet (Zagoruyko & Komodakis 2016)."""

from torch import Tensor, nn
from torch.nn import functional

from robust_student.core.errors import UserError
from robust_student.core.tensors import Shape
from robust_student.models.networks.cnn import conv_block, require_image


class _Residual(nn.Module):
    """Two 3x3 convolutions around a shortcut (He et al. 2015, figure 2), shortcut of option A."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        """Build the block."""
        super().__init__()
        self.first = conv_block(channels_in, channels_out, stride)
        self.second = nn.Sequential(
            nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False), nn.BatchNorm2d(channels_out)
        )
        self.stride, self.extra = stride, channels_out - channels_in

    def forward(self, inputs: Tensor) -> Tensor:
        """ReLU(F(x) + shortcut(x))."""
        shortcut = functional.pad(inputs[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.extra))
        return functional.relu(self.second(self.first(inputs)) + shortcut)


class WideResidual(nn.Module):
    """BatchNorm, ReLU and a 3x3 convolution, twice, around a shortcut (Zagoruyko & Komodakis 2016, figure 1c).

    Where the number of channels changes, the shortcut is a 1x1 convolution of the activated input, as in the authors'
    program; dropout is left out, as in their CIFAR results without it.
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        """Build the block."""
        super().__init__()
        self.norm_first, self.norm_second = nn.BatchNorm2d(channels_in), nn.BatchNorm2d(channels_out)
        self.first = nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1, bias=False)
        self.second = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        changes = channels_in != channels_out
        self.shortcut = nn.Conv2d(channels_in, channels_out, 1, stride=stride, bias=False) if changes else None

    def forward(self, inputs: Tensor) -> Tensor:
        """F(x) + shortcut(x)."""
        active = functional.relu(self.norm_first(inputs))
        carried = inputs if self.shortcut is None else self.shortcut(active)
        return self.second(functional.relu(self.norm_second(self.first(active)))) + carried


def resnet8(shape: Shape, classes: int, width: int = 16) -> nn.Module:
    """ResNet-8 for small images: one residual block per stage (He et al. 2015, section 4.2)."""
    return _resnet(shape, classes, 1, width)


def resnet20(shape: Shape, classes: int, width: int = 16) -> nn.Module:
    """ResNet-20 for small images: three residual blocks per stage (He et al. 2015, section 4.2)."""
    return _resnet(shape, classes, 3, width)


def resnet32(shape: Shape, classes: int, width: int = 16) -> nn.Module:
    """ResNet-32 for small images: five residual blocks per stage (He et al. 2015, section 4.2)."""
    return _resnet(shape, classes, 5, width)


def resnet56(shape: Shape, classes: int, width: int = 16) -> nn.Module:
    """ResNet-56 for small images: nine residual blocks per stage (He et al. 2015, section 4.2)."""
    return _resnet(shape, classes, 9, width)


def wrn(shape: Shape, classes: int, depth: int = 16, widening: int = 2) -> nn.Module:
    """Wide ResNet: `wrn:40,2` or `wrn-40-2` has depth 40 and widening factor 2 (Zagoruyko & Komodakis 2016, table 1).

    (depth - 4) / 6 blocks in each of three groups of 16, 32 and 64 times the factor channels, the last two of which
    start with stride 2.
    """
    require_image(shape, "wrn")
    if depth < 10 or (depth - 4) % 6 != 0:
        raise UserError(f"model 'wrn:{depth},{widening}': the depth is 6 n + 4 for n blocks per group: 10, 16, 22, ...")
    layers: list[nn.Module] = [nn.Conv2d(shape[0], 16, 3, padding=1, bias=False)]
    channels = 16
    for group in range(3):
        for block in range((depth - 4) // 6):
            layers.append(WideResidual(channels, 16 * widening * 2**group, 2 if group > 0 and block == 0 else 1))
            channels = 16 * widening * 2**group
    head = (nn.BatchNorm2d(channels), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))
    return nn.Sequential(*layers, *head)


def _resnet(shape: Shape, classes: int, blocks: int, width: int) -> nn.Module:
    require_image(shape, "resnet")
    layers: list[nn.Module] = [conv_block(shape[0], width, 1)]
    channels = width
    for stage in range(3):
        for block in range(blocks):
            layers.append(_Residual(channels, width * 2**stage, 2 if stage > 0 and block == 0 else 1))
            channels = width * 2**stage
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))
