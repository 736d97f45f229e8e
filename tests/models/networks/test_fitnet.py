"""FitNets and the maxout teacher have the layers that their paper states."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from robust_student.models.costs import count_macs
from robust_student.models.networks.fitnet import FITNETS, Maxout, maxout
from robust_student.models.registry import build

CIFAR = (3, 32, 32)


def weights_of(network: nn.Module) -> int:
    """Parameters without the biases and BatchNorm, as the authors of FitNets count."""
    return sum(parameter.numel() for parameter in network.parameters() if parameter.dim() > 1)


def rounded(value: float, digits: int) -> float:
    return round(value, digits - 1 - math.floor(math.log10(value)))


@pytest.mark.parametrize(
    ("name", "layers", "parameters", "multiplications"),
    [
        ("maxout", 5, 9e6, 725e6),
        ("fitnet1", 11, 250e3, 30e6),
        ("fitnet2", 11, 862e3, 108e6),
        ("fitnet4", 19, 2.5e6, 382e6),
    ],
)
def test_fitnets_are_those_of_table_5(name: str, layers: int, parameters: float, multiplications: float) -> None:
    """Romero et al. 2015: layers, weights and multiplications, to the digits that are printed."""
    network = build(name, CIFAR, 10)
    assert sum(isinstance(module, nn.Conv2d | nn.Linear) for module in network.modules()) == layers
    assert rounded(weights_of(network), 3 if parameters < 1e6 else 2 if name == "fitnet4" else 1) == parameters
    assert rounded(count_macs(network, CIFAR), 3 if multiplications > 1e8 else 2) == multiplications


def test_fitnet3_follows_table_7_which_table_5_contradicts() -> None:
    network = build("fitnet3", CIFAR, 10)
    assert sum(isinstance(module, nn.Conv2d | nn.Linear) for module in network.modules()) == 13
    assert weights_of(network) == 1_503_304  # "~1.6M"
    assert count_macs(network, CIFAR) == 323_946_376  # "~392M"


@pytest.mark.parametrize("name", list(FITNETS))
def test_fitnets_have_the_widths_of_table_7(name: str) -> None:
    layers = [module.pieces for module in build(name, CIFAR, 10).modules() if isinstance(module, Maxout)]
    widths = [layer.out_channels // 2 for layer in layers if isinstance(layer, nn.Conv2d)]
    assert widths == [width for stage in FITNETS[name] for width in stage]


def test_more_pieces_are_more_weights_of_the_fully_connected_layer() -> None:
    two, five = (weights_of(build(spec, CIFAR, 10)) for spec in ("fitnet1", "fitnet1:5"))
    assert five - two == 3 * 500 * 64
    two, five = (weights_of(build(spec, CIFAR, 10)) for spec in ("maxout", "maxout:5"))
    assert five - two == 3 * 500 * 192 * 5 * 5


@given(st.integers(8, 40), st.integers(8, 40))
@settings(max_examples=15)
def test_the_maxout_teacher_fits_every_size(height: int, width: int) -> None:
    with torch.device("meta"):
        network = maxout((1, height, width), 4)
        assert network(torch.empty(2, 1, height, width)).shape == (2, 4)


@torch.no_grad()
def test_maxout_is_the_largest_of_its_pieces() -> None:
    torch.manual_seed(0)
    convolution, linear = Maxout(nn.Conv2d(2, 12, 3), 3), Maxout(nn.Linear(7, 10), 2)
    for layer in (convolution.pieces, linear.pieces):
        layer.get_parameter("bias").normal_()
    images, vectors = torch.randn(3, 2, 5, 6), torch.randn(4, 7)
    weight, bias = convolution.pieces.weight, convolution.pieces.get_parameter("bias")
    outputs = convolution(images)
    for unit in range(4):
        pieces = [functional.conv2d(images, weight[[k]], bias[[k]])[:, 0] for k in range(3 * unit, 3 * unit + 3)]
        torch.testing.assert_close(outputs[:, unit], torch.maximum(torch.maximum(pieces[0], pieces[1]), pieces[2]))
    every = [[float(w @ v + b) for w, b in zip(*linear.pieces.parameters(), strict=True)] for v in vectors]
    rows = [[max(values[2 * k], values[2 * k + 1]) for k in range(5)] for values in every]
    torch.testing.assert_close(linear(vectors), torch.tensor(rows))


@torch.no_grad()
def test_two_pieces_pass_the_second_moment_on() -> None:
    torch.manual_seed(0)
    values = torch.randn(200, 400)
    for _ in range(3):
        values = Maxout(nn.Linear(400, 800), 2)(values)
    assert float(values.square().mean()) == pytest.approx(1.0, rel=0.25)
