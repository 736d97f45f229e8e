"""The networks of the field have the sizes and layers that their papers state."""

import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import message_of
from torch import Tensor, nn
from torch.nn import functional

from robust_student.models.costs import count_macs, count_parameters
from robust_student.models.networks.fitnet import FITNETS, Maxout, maxout
from robust_student.models.networks.mobilenet import mobilenetv2
from robust_student.models.networks.resnet import WideResidual, wrn
from robust_student.models.registry import build

CIFAR = (3, 32, 32)
FAMILIES = ["resnet32", "resnet56", "wrn-16-2", "wrn-40-2", "mobilenetv2", "maxout", *FITNETS]


def weights_of(network: nn.Module) -> int:
    """Parameters without the biases and BatchNorm, as the authors of FitNets count."""
    return sum(parameter.numel() for parameter in network.parameters() if parameter.dim() > 1)


def rounded(value: float, digits: int) -> float:
    return round(value, digits - 1 - math.floor(math.log10(value)))


# Sizes ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "classes", "millions"),
    [
        ("resnet20", 10, 0.27),  # He et al. 2015, table 6
        ("resnet32", 10, 0.46),
        ("resnet56", 10, 0.85),
        ("wrn-16-2", 10, 0.69),
        ("wrn-16-2", 100, 0.70),  # Tian et al. 2020 (CRD), supplement
        ("wrn-40-2", 10, 2.2),  # Zagoruyko & Komodakis 2016, tables 4 and 5, and below
        ("wrn-40-1", 10, 0.6),
        ("wrn-40-4", 10, 8.9),
        ("wrn-16-8", 10, 11.0),
        ("wrn-22-8", 10, 17.2),
        ("wrn-28-10", 10, 36.5),
        ("mobilenetv2", 10, 2.24),
        ("mobilenetv2", 1000, 3.5),  # Sandler et al. 2018, table 4: 3.4 million; torchvision counts 3,504,872
        ("mobilenetv2:50", 100, 0.82),  # Tian et al. 2020: 0.81 million
    ],
)
def test_networks_have_the_published_number_of_parameters(spec: str, classes: int, millions: float) -> None:
    with torch.device("meta"):
        found = count_parameters(build(spec, CIFAR, classes)) / 1e6
    assert found == pytest.approx(millions, abs=0.5 * 10 ** -len(str(millions).partition(".")[2]))


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


@pytest.mark.parametrize(
    ("published", "ours"),
    [
        ("ResNet-20", "resnet20"),
        ("WRN-16-2", "wrn:16,2"),
        ("wrn-40-2", "wrn:40,2"),
        ("FitNet-1", "fitnet1"),
        ("wrn", "wrn:16,2"),
    ],
)
def test_published_names_are_understood(published: str, ours: str) -> None:
    with torch.device("meta"):
        assert str(build(published, CIFAR, 10)) == str(build(ours, CIFAR, 10))


# Shapes ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize(("shape", "classes"), [(CIFAR, 10), ((1, 9, 13), 2), ((5, 8, 8), 3)], ids=str)
def test_networks_take_images_of_any_format(name: str, shape: tuple[int, ...], classes: int) -> None:
    logits = build(name, shape, classes).eval()(torch.rand(2, *shape, generator=torch.Generator().manual_seed(0)))
    assert logits.shape == (2, classes) and bool(logits.isfinite().all())


@pytest.mark.parametrize("name", FAMILIES)
def test_networks_of_images_refuse_tables(name: str) -> None:
    assert "needs images" in message_of(lambda: build(name, (64,), 3))


@pytest.mark.parametrize(("name", "shape"), [("maxout", (1, 7, 9)), ("fitnet1", (1, 3, 8)), ("fitnet4", (1, 8, 2))])
def test_images_that_pooling_would_empty_are_refused(name: str, shape: tuple[int, ...]) -> None:
    assert "at least" in message_of(lambda: build(name, shape, 3))


@given(st.integers(8, 40), st.integers(8, 40))
@settings(max_examples=15)
def test_the_maxout_teacher_fits_every_size(height: int, width: int) -> None:
    with torch.device("meta"):
        network = maxout((1, height, width), 4)
        assert network(torch.empty(2, 1, height, width)).shape == (2, 4)


@pytest.mark.parametrize(
    "spec", ["wrn:17,2", "wrn:4,2", "wrn-18-2", "wrn:16,0", "wrn:16,2,3", "fitnet1:0", "resnet32:a"]
)
def test_bad_numbers_are_refused_in_one_line(spec: str) -> None:
    assert message_of(lambda: build(spec, CIFAR, 10)).startswith("model '")


# Layers ---------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_maxout_is_the_largest_of_its_pieces() -> None:
    torch.manual_seed(0)
    convolution, linear = Maxout(nn.Conv2d(2, 12, 3), 3), Maxout(nn.Linear(7, 10), 2)
    for layer in (convolution.pieces, linear.pieces):
        layer.get_parameter("bias").normal_()
    images, vectors = torch.randn(3, 2, 5, 6), torch.randn(4, 7)
    weight, bias = convolution.pieces.weight, convolution.pieces.get_parameter("bias")
    found = convolution(images)
    for unit in range(4):
        pieces = [functional.conv2d(images, weight[[k]], bias[[k]])[:, 0] for k in range(3 * unit, 3 * unit + 3)]
        torch.testing.assert_close(found[:, unit], torch.maximum(torch.maximum(pieces[0], pieces[1]), pieces[2]))
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


def wide_resnet(inputs: Tensor, state: dict[str, Tensor], blocks: Sequence[tuple[int, int]]) -> Tensor:
    """WRN written out, with the weights of a network: `blocks` are (position, stride)."""

    def norm(x: Tensor, name: str) -> Tensor:
        mean, variance = state[f"{name}.running_mean"], state[f"{name}.running_var"]
        return functional.batch_norm(x, mean, variance, state[f"{name}.weight"], state[f"{name}.bias"])

    x = functional.conv2d(inputs, state["0.weight"], padding=1)
    for position, stride in blocks:
        active = norm(x, f"{position}.norm_first").relu()
        inner = functional.conv2d(active, state[f"{position}.first.weight"], padding=1, stride=stride)
        inner = functional.conv2d(
            norm(inner, f"{position}.norm_second").relu(), state[f"{position}.second.weight"], padding=1
        )
        shortcut = state.get(f"{position}.shortcut.weight")
        x = inner + (x if shortcut is None else functional.conv2d(active, shortcut, stride=stride))
    last = len(blocks) + 1
    x = norm(x, str(last)).relu().mean((2, 3))
    return x @ state[f"{last + 4}.weight"].T + state[f"{last + 4}.bias"]


def test_wide_resnets_are_what_the_paper_draws() -> None:
    torch.manual_seed(0)
    network = wrn((2, 12, 8), 3, 16, 1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.get_buffer("running_mean").normal_()
            module.weight.data.uniform_(0.5, 2)
    inputs = torch.randn(3, 2, 12, 8)
    blocks = [(1, 1), (2, 1), (3, 2), (4, 1), (5, 2), (6, 1)]
    expected = wide_resnet(inputs, dict(network.state_dict()), blocks)
    torch.testing.assert_close(network.eval()(inputs), expected, rtol=1e-4, atol=1e-4)
    assert [b.shortcut is None for b in network.modules() if isinstance(b, WideResidual)] == 2 * [True] + 2 * [
        False,
        True,
    ]


@pytest.mark.parametrize("percent", [50, 100])
def test_mobilenet_is_torchvisions_with_the_strides_of_small_images(percent: int) -> None:
    from torchvision.models import MobileNetV2

    torch.manual_seed(0)
    mine = mobilenetv2((3, 16, 16), 5, percent)
    stages = [[t, c, n, 1 if c == 24 else s] for t, c, n, s in [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2)]]
    stages += [[6, 64, 4, 2], [6, 96, 3, 1], [6, 160, 3, 2], [6, 320, 1, 1]]
    theirs = MobileNetV2(num_classes=5, width_mult=percent / 100, inverted_residual_setting=stages)
    stem = theirs.get_submodule("features.0.0")
    assert isinstance(stem, nn.Conv2d)
    stem.stride = (1, 1)
    ours, own = theirs.state_dict(), mine.state_dict()
    assert [tensor.shape for tensor in ours.values()] == [tensor.shape for tensor in own.values()]
    mine.load_state_dict(dict(zip(own, ours.values(), strict=True)))
    inputs = torch.rand(4, 3, 16, 16)
    torch.testing.assert_close(mine.eval()(inputs), theirs.eval()(inputs))


def test_resnet_shortcuts_have_no_parameters() -> None:
    """Option A: 6 n + 1 convolutions and one linear layer, nothing else with weights of two dimensions or more."""
    for name, blocks in (("resnet8", 1), ("resnet20", 3), ("resnet32", 5), ("resnet56", 9)):
        network = build(f"{name}:2", (1, 8, 8), 3)
        matrices = [parameter for parameter in network.parameters() if parameter.dim() > 1]
        assert len(matrices) == 6 * blocks + 2
