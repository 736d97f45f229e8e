"""Residual networks are those of their papers."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from robust_student.models.networks.resnet import WideResidual, wrn
from robust_student.models.registry import build


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


def test_resnet_shortcuts_have_no_parameters() -> None:
    """Option A: 6 n + 1 convolutions and one linear layer, nothing else with weights of two dimensions or more."""
    for name, blocks in (("resnet8", 1), ("resnet20", 3), ("resnet32", 5), ("resnet56", 9)):
        network = build(f"{name}:2", (1, 8, 8), 3)
        matrices = [parameter for parameter in network.parameters() if parameter.dim() > 1]
        assert len(matrices) == 6 * blocks + 2
