"""Parameters and multiply-accumulates are those of a count by hand."""

import pytest
from reference import assert_state, state_of

from robust_student.core.tensors import Shape
from robust_student.models.costs import count_macs, count_parameters
from robust_student.models.registry import build


def convolution(inputs: int, outputs: int, side: int, bias: bool) -> int:
    return outputs * (inputs * side**2 + bias)


def resnet_parameters(channels: int, width: int, blocks: int, classes: int) -> int:
    """He et al. 2015, section 4.2, option A: convolutions, two numbers per BatchNorm channel, one linear layer."""
    widths = [width, 2 * width, 4 * width]
    layers = [(channels, width)]
    for stage, (before, after) in enumerate(zip([width, *widths[:-1]], widths, strict=True)):
        layers += [(before if stage > 0 else width, after)] + [(after, after)] * (2 * blocks - 1)
    return sum(convolution(i, o, 3, bias=False) + 2 * o for i, o in layers) + (widths[-1] + 1) * classes


@pytest.mark.parametrize(
    ("spec", "shape", "expected"),
    [
        ("linear", (1, 8, 8), 65 * 10),
        ("mlp", (1, 8, 8), 65 * 64 + 65 * 64 + 65 * 10),
        ("mlp:5,7", (20,), 21 * 5 + 6 * 7 + 8 * 10),
        ("cnn:8", (1, 28, 28), 8_906),
        (
            "cnn:4",
            (3, 8, 8),
            convolution(3, 4, 3, True) + convolution(4, 8, 3, True) + convolution(8, 16, 3, True) + 65 * 10,
        ),
        ("resnet20", (3, 32, 32), 269_722),
        ("resnet20", (3, 32, 32), resnet_parameters(3, 16, 3, 10)),
        ("resnet8:6", (1, 28, 28), resnet_parameters(1, 6, 1, 10)),
    ],
)
def test_parameter_counts_are_those_of_the_hand_count(spec: str, shape: Shape, expected: int) -> None:
    assert count_parameters(build(spec, shape, 10)) == expected


def test_frozen_parameters_count_too() -> None:
    network = build("mlp:4", (6,), 3)
    network.requires_grad_(False)
    assert count_parameters(network) == 7 * 4 + 5 * 3


@pytest.mark.parametrize(
    ("spec", "shape", "expected"),
    [
        ("linear", (1, 8, 8), 64 * 10),
        ("mlp:5,7", (20,), 20 * 5 + 5 * 7 + 7 * 10),
        # 5x5 stride 2 to 14x14, 3x3 at 14x14, 3x3 at 7x7, then 3x3 positions of 32 channels
        ("cnn:8", (1, 28, 28), 14**2 * 25 * 8 + 14**2 * 9 * 8 * 16 + 7**2 * 9 * 16 * 32 + 9 * 32 * 10),
    ],
)
def test_multiply_accumulates_are_those_of_the_hand_count(spec: str, shape: Shape, expected: int) -> None:
    assert count_macs(build(spec, shape, 10).eval(), shape) == expected


def test_counting_leaves_buffers_as_they_were() -> None:
    network = build("resnet8:4", (1, 8, 8), 3)
    before = state_of(network)
    count_macs(network, (1, 8, 8))
    assert_state(network, before)
