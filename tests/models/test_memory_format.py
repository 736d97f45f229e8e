"""Convolutions in the layout that runs fastest: the same logits, nothing left behind, no network broken."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robust_student.models.memory_format import channels_last


class Viewing(nn.Module):
    """Reshapes with `view`, which needs the channels of an image one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.linear = nn.Conv2d(3, 4, 3), nn.Linear(4 * 6 * 6, 5)

    def forward(self, inputs: Tensor) -> Tensor:
        features: Tensor = self.convolution(inputs)
        return torch.as_tensor(self.linear(features.view(len(features), -1)))


def convolutional() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 6 * 6, 5)).eval()


def layout(network: Any) -> bool:
    kernel = next(module.weight for module in network.modules() if isinstance(module, nn.Conv2d))
    return not kernel.is_contiguous() and kernel.is_contiguous(memory_format=torch.channels_last)


def test_logits_are_the_same_and_the_layout_is_put_back() -> None:
    network, inputs = convolutional(), torch.rand(7, 3, 8, 8)
    before = network(inputs)
    with channels_last([network], inputs[:1]):
        assert layout(network)
        torch.testing.assert_close(network(inputs), before)
    assert not layout(network)
    assert torch.equal(network(inputs), before)


def test_the_layout_is_put_back_after_an_error() -> None:
    network = convolutional()
    with pytest.raises(KeyboardInterrupt), channels_last([network], torch.rand(1, 3, 8, 8)):
        raise KeyboardInterrupt
    assert not layout(network)


def test_a_network_that_views_is_left_alone() -> None:
    network, inputs = Viewing(), torch.rand(7, 3, 8, 8)
    before = network(inputs)
    with channels_last([network], inputs[:1]):
        assert not layout(network)
        assert torch.equal(network(inputs), before)


def test_trying_draws_no_random_numbers() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Dropout())
    state = torch.get_rng_state()
    with channels_last([network], torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))):
        assert layout(network)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_network_without_convolutions_is_not_run() -> None:
    class Fragile(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            raise AssertionError

    with channels_last([Fragile()], torch.rand(1, 3)):
        pass
