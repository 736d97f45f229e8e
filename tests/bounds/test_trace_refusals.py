"""What cannot be traced or bounded is refused by name."""

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from reference import message_of
from torch import Tensor, nn
from torch.nn import functional
from zoo import COLOUR, SIGNAL, VECTOR, Body

from robust_student.bounds.trace import trace
from robust_student.core.errors import UserError
from robust_student.core.tensors import Shape


class SqueezeExcite(nn.Module):
    """A gate that scales the channels it was computed from."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.head = nn.Linear(3, 3), nn.Linear(75, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        weights = self.gate(inputs.mean((2, 3))).sigmoid()[:, :, None, None]
        return self.head((inputs * weights).flatten(1))


class Attention(nn.Module):
    """One layer of self-attention."""

    def __init__(self) -> None:
        super().__init__()
        self.attend = nn.MultiheadAttention(9, 3, batch_first=True)
        self.head = nn.Linear(18, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.attend(inputs, inputs, inputs, need_weights=False)[0].flatten(1))


class Without(nn.Module):
    """Fails without a word."""

    def forward(self, inputs: Tensor) -> Tensor:
        raise NotImplementedError


def overwritten_view(x: Tensor, layer: nn.Module) -> Tensor:
    hidden = x * 1.0
    hidden.view(-1, 2, 3)[:, 0].relu_()
    return layer(hidden)


def overwritten_dropout(x: Tensor, layer: nn.Module) -> Tensor:
    hidden = x * 1.0
    functional.dropout(hidden, training=False).relu_()
    return layer(hidden)


def overwritten_base(x: Tensor, layer: nn.Module) -> Tensor:
    hidden = x * 1.0
    view = hidden.view(-1, 2, 3)
    hidden.relu_()
    return layer(view.flatten(1))


def overwritten_chunk(x: Tensor, layer: nn.Module) -> Tensor:
    hidden = x * 1.0
    hidden.chunk(2, dim=1)[0].relu_()
    return layer(hidden)


def overwritten_mask(x: Tensor, layer: nn.Module) -> Tensor:
    mask = torch.zeros(6, dtype=x.dtype, device=x.device)
    mask[2:] = 1.0
    return layer(x * mask)


def without_gradient(x: Tensor, layer: nn.Module) -> Tensor:
    with torch.no_grad():
        scaled = x * 2
    return layer(scaled)


def two_outputs(x: Tensor, layer: nn.Module) -> Any:
    return layer(x), layer(-x)


def lines(inputs: int = 6, outputs: int = 3) -> nn.Module:
    return nn.Linear(inputs, outputs)


Refused = tuple[Callable[[], nn.Module], Shape, list[str]]
REFUSED: dict[str, Refused] = {
    "layer norm": (
        lambda: nn.Sequential(nn.Linear(6, 4), nn.LayerNorm(4), nn.Linear(4, 3)),
        VECTOR,
        ["'layer_norm'", "'1'", "LayerNorm"],
    ),
    "nested": (
        lambda: nn.Sequential(nn.Sequential(nn.Linear(6, 4), nn.Softplus()), nn.Linear(4, 3)),
        VECTOR,
        ["'softplus'", "'0.1'", "Softplus"],
    ),
    "softmax": (lambda: nn.Sequential(nn.Linear(6, 3), nn.Softmax(1)), VECTOR, ["'softmax'", "'1'", "Softmax"]),
    "squeeze and excite": (
        lambda: nn.Sequential(SqueezeExcite()),
        COLOUR,
        ["'mul'", "'0'", "SqueezeExcite", "depend on the input"],
    ),
    "attention": (lambda: nn.Sequential(Attention()), SIGNAL, ["'0.attend'", "MultiheadAttention"]),
    "product with itself": (lambda: Body(lambda x, a: a(x * x), lines()), VECTOR, ["'mul'", "depend on the input"]),
    "power": (lambda: Body(lambda x, a: a(x**2), lines()), VECTOR, ["'pow'"]),
    "quotient": (lambda: Body(lambda x, a: a(1 / (x + 2)), lines()), VECTOR, ["'reciprocal'"]),
    "ratio": (lambda: Body(lambda x, a: a(x / (x + 2)), lines()), VECTOR, ["'div'"]),
    "traced weights": (lambda: Body(lambda x, a: functional.linear(x, a(x).T @ x), lines()), VECTOR, ["'numpy_T'"]),
    "matrix of inputs": (lambda: Body(lambda x: x.view(-1, 3, 3) @ x.view(-1, 3, 3)), (9,), ["'matmul'"]),
    "sine": (lambda: Body(lambda x, a: torch.sin(a(x)), lines()), VECTOR, ["'sin'"]),
    "sort": (lambda: Body(lambda x, a: a(x.sort(1).values), lines()), VECTOR, ["'sort'"]),
    "argmax": (lambda: Body(lambda x, a: a(x) + x.view(-1, 2, 3).max(1).indices, lines()), VECTOR, ["'max'"]),
    "larger, broadcast": (
        lambda: Body(lambda x, a: a(torch.max(x, x[:, :1])), lines()),
        VECTOR,
        ["'max'", "broadcast"],
    ),
    "larger than a wider constant": (
        lambda: Body(lambda x, a: a(torch.max(x[:, :1], torch.arange(6).to(x))), lines()),
        VECTOR,
        ["'max'", "broadcast"],
    ),
    "largest of all": (lambda: Body(lambda x, a: a(x) - x.max(), lines()), VECTOR, ["'max'"]),
    "batch mean": (lambda: Body(lambda x, a: a(x - x.mean(0)), lines()), VECTOR, ["'mean'", "batch"]),
    "batch mean, kept": (lambda: Body(lambda x, a: a(x - x.mean(0, keepdim=True)), lines()), VECTOR, ["'mean'"]),
    "batch sum": (lambda: Body(lambda x, a: a(x) + x.sum(), lines()), VECTOR, ["'sum'", "batch"]),
    "batch maximum": (lambda: Body(lambda x, a: a(x) - a(x).amax(0), lines()), VECTOR, ["'amax'"]),
    "batch slice": (lambda: Body(lambda x, a: a(x) - a(x)[:1], lines()), VECTOR, ["'slice'", "batch"]),
    "batch chunks": (lambda: Body(lambda x, a: a(x.chunk(5)[0]), lines()), VECTOR, ["'chunk'", "batch"]),
    "batch first": (lambda: Body(lambda x, a: a(x.transpose(0, 1).transpose(0, 1)), lines()), VECTOR, ["'transpose'"]),
    "batchnorm without statistics": (
        lambda: nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4, track_running_stats=False), nn.Linear(4, 3)),
        VECTOR,
        ["'batch_norm'", "'1'", "BatchNorm1d", "batch"],
    ),
    "random dropout": (
        lambda: Body(lambda x, a: functional.dropout(a(x)), lines()),
        VECTOR,
        ["'dropout'", "random"],
    ),
    "control flow": (
        lambda: Body(lambda x, a: a(x) if x.sum() > 0 else -a(x), lines()),
        VECTOR,
        ["depends on the values"],
    ),
    "without a word": (Without, VECTOR, ["cannot be traced (NotImplementedError)"]),
    "two outputs": (lambda: Body(two_outputs, lines()), VECTOR, ["2 outputs"]),
    "no output of its own": (
        lambda: Body(lambda x, a: a(torch.ones(5, 6, dtype=x.dtype)), lines()),
        VECTOR,
        ["does not depend on its input"],
    ),
    "broadcast": (lambda: Body(lambda x, a: a(x) + x[:, :1], lines()), VECTOR, ["'add'", "broadcast"]),
    "broadcast constant": (
        lambda: Body(lambda x, a: (a(x)[:, :, None] + torch.ones(4)).flatten(1), lines()),
        VECTOR,
        ["'add'", "broadcast"],
    ),
    "rounding": (lambda: Body(lambda x, a: a(torch.div(x, 1e-4, rounding_mode="floor")), lines()), VECTOR, ["'div'"]),
    "whole numbers": (lambda: Body(lambda x, a: a((1e5 * x).long().float()), lines()), VECTOR, ["'to'", "rounds"]),
    "half precision": (lambda: Body(lambda x, a: a(x.half().float()), lines()), VECTOR, ["'to'", "rounds"]),
    "overwritten view": (lambda: Body(overwritten_view, lines()), VECTOR, ["'relu_'", "in place"]),
    "overwritten dropout": (lambda: Body(overwritten_dropout, lines()), VECTOR, ["'relu_'", "in place"]),
    "overwritten base": (lambda: Body(overwritten_base, lines()), VECTOR, ["'relu_'", "in place"]),
    "overwritten chunk": (lambda: Body(overwritten_chunk, lines()), VECTOR, ["'relu_'", "in place"]),
    "overwritten mask": (lambda: Body(overwritten_mask, lines()), VECTOR, ["'fill_'", "in place"]),
    "overwritten in a module": (
        lambda: nn.Sequential(Body(overwritten_view, lines())),
        VECTOR,
        ["'relu_' in module '0' (Body)", "in place"],
    ),
    "without gradient": (lambda: Body(without_gradient, lines()), VECTOR, ["'wrap_with_set_grad_enabled'"]),
    "single precision in double": (
        lambda: Body(lambda x, a: a(x.float().double()), lines().double()),
        VECTOR,
        ["'to'", "rounds"],
    ),
    # The trace has five examples: inputs, layers and constants of that size must not pass for the batch.
    "five features, batch mean": (lambda: Body(lambda x, a: a(x - x.mean(0)), lines(5)), (5,), ["'sub'"]),
    "five features, transposed": (lambda: Body(lambda x, a: a(x + x.transpose(0, 1)), lines(5)), (5,), ["fails"]),
    "five features, moved up": (
        lambda: Body(
            lambda x, a: a(
                torch.cat([x.transpose(0, 1), x.transpose(0, 1).mean(1, keepdim=True)], 1)[:, 1:].transpose(0, 1)
            ),
            lines(5),
        ),
        (5,),
        ["certify"],
    ),
    "five times the first": (
        lambda: Body(lambda x, a: a(x).index_select(0, torch.zeros(5, dtype=torch.int64)), lines()),
        VECTOR,
        ["disagrees"],
    ),
    "one constant for each example": (
        lambda: Body(lambda x, a: a(x) + torch.arange(5.0)[:, None], lines()),
        VECTOR,
        ["fails"],
    ),
    "another constant for each example, concatenated": (
        lambda: Body(lambda x, a: a(torch.cat([x, torch.arange(5.0)[:, None]], 1)), lines(7)),
        VECTOR,
        ["'cat'", "example"],
    ),
    "the number of examples": (lambda: Body(lambda x, a: a(x) * x.shape[0], lines()), VECTOR, ["disagrees"]),
    "channels without a batch": (
        lambda: Body(lambda x, a: a(x).flatten(1), nn.Conv2d(5, 5, 3)),
        (6, 6),
        ["fails"],
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_bounded_is_refused_by_name(case: str, device: torch.device) -> None:
    build, shape, words = REFUSED[case]
    network = build().to(device)
    message = message_of(lambda: trace(network, shape))
    assert message.startswith("certify: ") and all(word in message for word in words), message
    assert ("smoothing" in message) == (case not in ("two outputs", "no output of its own"))


def test_a_refusal_leaves_the_networks_mode(device: torch.device) -> None:
    network = nn.Sequential(nn.Linear(6, 4), nn.LayerNorm(4)).to(device).train()
    message_of(lambda: trace(network, VECTOR))
    assert all(module.training for module in network.modules())


def test_a_network_that_cannot_be_traced_is_refused_quietly(capfd: pytest.CaptureFixture[str]) -> None:
    """torch.export prints the whole program; a user gets one line, and hears of other things as before."""
    network, shape, _ = REFUSED["control flow"]
    before = logging.root.manager.disable
    with pytest.raises(UserError) as error:
        trace(network(), shape)
    assert len(str(error.value).splitlines()) == 1
    assert capfd.readouterr() == ("", "") and logging.root.manager.disable == before


@pytest.mark.parametrize(
    ("forward", "reason"),
    [
        (lambda x, a: a(functional.avg_pool2d(x, 1, divisor_override=-3).flatten(1)), "negative divisor"),
        (lambda x, a: a((4 * x).sum(dim=1, keepdim=True, dtype=torch.int64).flatten(1).to(x.dtype)), "rounds"),
        (lambda x, a: a((4 * x).mean(dim=1, keepdim=True, dtype=torch.float16).flatten(1).to(x.dtype)), "rounds"),
        (lambda x, a: functional.linear(x.flatten(1), (10 * a.weight).floor() / 10), "rounds"),
        (lambda x, a: a(x.flatten(1)) * torch.where(torch.rand(()) < 0.5, 1.0, -1.0), "random"),
    ],
)
def test_what_a_newcomer_broke_is_refused(forward: Callable[..., Tensor], reason: str) -> None:
    """Each of these was certified once, and an attack succeeded inside the radius."""
    network = Body(forward, nn.Linear(4, 3))
    assert reason in message_of(lambda: trace(network, (1, 2, 2)))
