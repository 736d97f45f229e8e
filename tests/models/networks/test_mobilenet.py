"""MobileNetV2 is torchvision's, with the strides of small images."""

import pytest
import torch
from torch import nn

from robust_student.models.networks.mobilenet import mobilenetv2


@pytest.mark.parametrize("percent", [50, 100])
def test_mobilenet_is_torchvisions_with_the_strides_of_small_images(percent: int) -> None:
    from torchvision.models import MobileNetV2

    torch.manual_seed(0)
    network = mobilenetv2((3, 16, 16), 5, percent)
    stages = [[t, c, n, 1 if c == 24 else s] for t, c, n, s in [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2)]]
    stages += [[6, 64, 4, 2], [6, 96, 3, 1], [6, 160, 3, 2], [6, 320, 1, 1]]
    theirs = MobileNetV2(num_classes=5, width_mult=percent / 100, inverted_residual_setting=stages)
    stem = theirs.get_submodule("features.0.0")
    assert isinstance(stem, nn.Conv2d)
    stem.stride = (1, 1)
    ours, own = theirs.state_dict(), network.state_dict()
    assert [tensor.shape for tensor in ours.values()] == [tensor.shape for tensor in own.values()]
    network.load_state_dict(dict(zip(own, ours.values(), strict=True)))
    inputs = torch.rand(4, 3, 16, 16)
    torch.testing.assert_close(network.eval()(inputs), theirs.eval()(inputs))
