"""A traced network computes what the network computes, follows its weights, and refuses what cannot be bounded."""

from collections.abc import Callable

import pytest
import torch
from reference import message_of
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations

from robust_student.graph import trace
from robust_student.models import NETWORKS, build


class Function(nn.Module):
    """A function of the input and of modules of its own."""

    def __init__(self, function: Callable[..., Tensor], *modules: nn.Module) -> None:
        super().__init__()
        self.function, self.parts = function, nn.ModuleList(modules)
        self.register_buffer("mean", torch.tensor([0.2, 0.4, 0.1]).view(3, 1, 1))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.function(inputs, *self.parts)


def after(features: int, function: Callable[..., Tensor], *modules: nn.Module) -> nn.Module:
    return nn.Sequential(Function(function, *modules), nn.Flatten(), nn.Linear(features, 4))


def normalised(x: Tensor) -> Tensor:
    return (x - torch.tensor([0.1, 0.2, 0.3]).to(x).view(3, 1, 1)) / 0.5 * 2.0 + 1 - 0.5


FAITHFUL: dict[str, tuple[tuple[int, ...], Callable[[], nn.Module]]] = {
    "normalisation by constants": ((3, 5, 5), lambda: after(75, normalised)),
    "constant minus input": ((3, 5, 5), lambda: after(75, lambda x: (1 - x).neg() * 3)),
    "same padding": ((3, 5, 5), lambda: after(50, lambda x, f: f(x), nn.Conv2d(3, 2, 3, padding="same"))),
    "circular padding": (
        (3, 5, 5),
        lambda: after(50, lambda x, f: f(x), nn.Conv2d(3, 2, 3, padding=1, padding_mode="circular")),
    ),
    "constant padding": ((3, 5, 5), lambda: after(147, lambda x: functional.pad(x, (1, 1, 1, 1), value=0.3))),
    "signals": (
        (2, 12),
        lambda: nn.Sequential(
            nn.Conv1d(2, 4, 3, stride=2), nn.BatchNorm1d(4), nn.ReLU(), nn.MaxPool1d(2), nn.Flatten(), nn.Linear(8, 4)
        ),
    ),
    "ceil mode": (
        (3, 6, 6),
        lambda: after(27, lambda x: functional.max_pool2d(x, 3, 2, 1, ceil_mode=True)[..., :3, :3]),
    ),
    "dilated pooling": ((3, 7, 7), lambda: after(27, lambda x: functional.max_pool2d(x, 2, 2, dilation=2))),
    "uneven adaptive pooling": ((3, 7, 5), lambda: after(18, lambda x: functional.adaptive_max_pool2d(x, (3, 2)))),
    "uneven adaptive average": ((3, 7, 5), lambda: after(18, lambda x: functional.adaptive_avg_pool2d(x, (3, 2)))),
    "padded average": (
        (3, 6, 6),
        lambda: after(48, lambda x: functional.avg_pool2d(x, 2, 2, 1, count_include_pad=False)),
    ),
    "permute, view, squeeze": (
        (3, 5, 5),
        lambda: after(75, lambda x: x.permute(0, 2, 3, 1).reshape(x.shape[0], -1).unsqueeze(1).squeeze(1)),
    ),
    "chunks": ((4, 3, 3), lambda: after(18, lambda x: x.chunk(2, 1)[0] - 2 * torch.split(x, 2, 1)[1])),
    "a value used twice": ((3, 5, 5), lambda: after(75, lambda x: x + x.relu() + torch.add(x, x, alpha=2))),
    "maximum along a dimension": ((3, 5, 5), lambda: after(25, lambda x: x.max(dim=1).values)),
    "means and sums": ((3, 5, 5), lambda: after(3, lambda x: x.mean((2, 3)) + x.sum((2, 3)))),
    "shared weights": (
        (3, 5, 5),
        lambda: after(75, lambda x, f: f(f(x).relu()), nn.Conv2d(3, 3, 3, padding=1)),
    ),
    "matrix product": ((6,), lambda: nn.Sequential(Function(lambda x: x @ torch.ones(6, 3).to(x)), nn.Linear(3, 4))),
    "orthogonal": (
        (6,),
        lambda: nn.Sequential(parametrizations.orthogonal(nn.Linear(6, 5)), nn.Tanh(), nn.Linear(5, 4)),
    ),
    "spectral norm": ((6,), lambda: nn.Sequential(parametrizations.spectral_norm(nn.Linear(6, 5)), nn.Linear(5, 4))),
    "in place": ((6,), lambda: nn.Sequential(nn.Linear(6, 5), nn.ReLU(inplace=True), nn.Linear(5, 4))),
}


def case(name: str) -> tuple[tuple[int, ...], nn.Module]:
    torch.manual_seed(0)
    shape, make = FAITHFUL[name]
    return shape, make().double().eval()


@pytest.mark.parametrize("name", list(FAITHFUL))
def test_the_trace_computes_what_the_network_computes(name: str) -> None:
    shape, network = case(name)
    points = torch.randn((7, *shape), dtype=torch.float64)
    with torch.no_grad():
        assert torch.allclose(trace(network, shape).layers(torch.float64)(points), network(points), atol=1e-9)


@pytest.mark.parametrize("name", sorted(NETWORKS))
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 18, 20)])
def test_every_built_in_network_can_be_traced(name: str, shape: tuple[int, ...]) -> None:
    network = build(name, shape, 5).eval()
    points = torch.rand((3, *shape))
    with torch.no_grad():
        assert torch.allclose(
            trace(network, shape).layers(torch.float64)(points.double()), network(points).double(), atol=1e-4
        )


@pytest.mark.parametrize("name", ["signals", "shared weights", "spectral norm", "orthogonal"])
def test_the_trace_follows_the_weights_and_gives_their_gradients(name: str) -> None:
    shape, network = case(name)
    graph = trace(network, shape)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1.5)
    points = torch.randn((7, *shape), dtype=torch.float64)
    outputs = graph.layers()(points), network(points)
    assert torch.allclose(*outputs, atol=1e-9)
    parameters = list(network.parameters())
    found, expected = (torch.autograd.grad(output.square().sum(), parameters) for output in outputs)
    assert all(torch.allclose(a, b, atol=1e-9) for a, b in zip(found, expected, strict=True))


def test_tracing_leaves_the_network_as_it_was() -> None:
    network = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Dropout()).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    trace(network, (6,))
    assert network.training and network[2].training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def attention(x: Tensor) -> Tensor:
    return functional.scaled_dot_product_attention(x, x, x)


REFUSED: dict[str, tuple[tuple[int, ...], Callable[[], nn.Module], str]] = {
    "layer norm": (
        (6,),
        lambda: nn.Sequential(nn.Linear(6, 4), nn.LayerNorm(4)),
        "'layer_norm' in module '1' (LayerNorm)",
    ),
    "softmax": ((6,), lambda: nn.Sequential(nn.Linear(6, 4), nn.Softmax(1)), "'softmax'"),
    "product": ((6,), lambda: Function(lambda x: x * x.sigmoid()), "'mul'"),
    "attention": ((3, 4), lambda: Function(attention), "'scaled_dot_product_attention'"),
    "sine": ((6,), lambda: Function(torch.sin), "'sin'"),
    "order": ((6,), lambda: Function(lambda x: x.sort(dim=1).values), "'sort'"),
    "position of the maximum": ((6,), lambda: Function(lambda x: x.max(dim=1, keepdim=True).indices.to(x)), "max"),
    "mean over the batch": ((6,), lambda: Function(lambda x: x - x.mean(0)), "'mean'"),
    "no running statistics": ((6,), lambda: nn.BatchNorm1d(6, track_running_stats=False), "'batch_norm'"),
    "dropout that stays on": ((6,), lambda: Function(lambda x: functional.dropout(x, 0.5)), "'dropout'"),
    "control flow": ((6,), lambda: Function(lambda x: x if float(x.sum()) > 0 else -x), "cannot be traced"),
    "constant": ((6,), lambda: Function(lambda x: torch.ones(x.shape[0], 4)), "does not depend"),
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_what_cannot_be_bounded_is_refused_by_name(name: str) -> None:
    shape, make, expected = REFUSED[name]
    message = message_of(lambda: trace(make().eval(), shape))
    assert message.startswith("certify: ") and expected in message
    assert "smoothing" in message or name == "constant"
