"""Small networks, one per kind of layer that can be certified, of a known seed."""

import copy
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations

from robust_student.core.tensors import Shape
from robust_student.models.networks.fitnet import Maxout
from robust_student.models.networks.mobilenet import InvertedResidual
from robust_student.models.registry import NETWORKS
from robust_student.models.resize import Resize

CLASSES = 3
IMAGE: Shape = (1, 6, 6)
COLOUR: Shape = (3, 5, 5)
SIGNAL: Shape = (2, 9)
VECTOR: Shape = (6,)


class Body(nn.Module):
    """A forward pass written as a function of the input and some modules."""

    def __init__(self, forward: Callable[..., Tensor], *parts: nn.Module) -> None:
        super().__init__()
        self.function, self.parts = forward, nn.ModuleList(parts)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.function(inputs, *self.parts)


class Normalised(nn.Module):
    """A linear layer behind (x - mean) / std, both buffers, and an offset that is a plain constant."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.3, 0.4, 0.5]).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor([0.2, 0.3, 0.4]).view(3, 1, 1), persistent=False)
        self.layer = nn.Linear(75, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        whitened = (inputs - self.get_buffer("mean")) / self.get_buffer("std")
        return self.layer(whitened.relu().flatten(1)) + torch.tensor([0.1, -0.2, 0.3])


class Case(NamedTuple):
    """How to build a network, and the shape of its inputs."""

    build: Callable[[], nn.Module]
    shape: Shape


def _head(shape: Shape, *layers: nn.Module) -> Case:
    """The layers, their weights drawn again, and a linear layer of what comes out."""

    def build() -> nn.Module:
        body = nn.Sequential(*copy.deepcopy(layers))
        for module in body:
            reset = getattr(module, "reset_parameters", None)
            if reset is not None:
                reset()
        with torch.no_grad():
            size = body.eval()(torch.zeros(2, *shape))[0].numel()
        return nn.Sequential(*body, nn.Flatten(), nn.Linear(size, CLASSES))

    return Case(build, shape)


def _around(activation: Callable[[], nn.Module]) -> Case:
    """Two activations between three linear layers."""
    return Case(
        lambda: nn.Sequential(
            nn.Linear(6, 7), activation(), nn.Linear(7, 7), activation(), nn.Linear(7, CLASSES, bias=False)
        ),
        VECTOR,
    )


def _body(shape: Shape, forward: Callable[..., Tensor], *parts: Callable[[], nn.Module]) -> Case:
    return Case(lambda: Body(forward, *(part() for part in parts)), shape)


def _line(inputs: int, outputs: int = CLASSES) -> Callable[[], nn.Module]:
    return lambda: nn.Linear(inputs, outputs)


def _square(x: Tensor, *parts: nn.Module) -> Tensor:
    """A residual block whose parts are convolutions that keep the shape, then the last part."""
    *blocks, last = parts
    for block in blocks:
        x = (block(x) + x).relu()
    return last(x.flatten(1))


def _shared(x: Tensor, layer: nn.Module, last: nn.Module) -> Tensor:
    return last(layer(functional.relu(layer(x))).tanh())


def _everything_in_place(x: Tensor, layer: nn.Module, last: nn.Module) -> Tensor:
    hidden = layer(x)
    hidden += x
    hidden *= 0.5
    functional.relu(hidden, inplace=True)  # what comes next reads the changed tensor
    return functional.leaky_relu(last(hidden.view(-1, 2, 3)).mean(1), 0.2, inplace=True)


AFFINE: dict[str, Case] = {
    "linear": _body(VECTOR, lambda x, a: a(x), _line(6)),
    "two linear": _body(VECTOR, lambda x, a, b: b(a(x)), _line(6, 5), _line(5)),
    "conv, then linear": _head(COLOUR, nn.Conv2d(3, 2, 3, padding=1)),
    "conv 1d, then linear": _head(SIGNAL, nn.Conv1d(2, 3, 3, stride=2)),
    "average pooling, then linear": _head(IMAGE, nn.AvgPool2d(3, 2, 1)),
    "difference": _body(VECTOR, lambda x, a, b: b(x - 2 * a(x)), _line(6, 6), _line(6)),
}
"""Networks without a bend: every bound has a closed form."""
ZOO: dict[str, Case] = {
    # Linear layers and convolutions
    "mlp": _around(nn.ReLU),
    "matmul": _body(VECTOR, lambda x, a, b: (x @ a.weight).relu() @ b.weight.T + b.bias, _line(4, 6), _line(4)),
    "linear on the last of two": _body(SIGNAL, lambda x, a, b: b(a(x).relu().flatten(1)), _line(9, 4), _line(8)),
    "conv": _head(COLOUR, nn.Conv2d(3, 4, 3), nn.ReLU()),
    "conv with stride": _head(IMAGE, nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 2)),
    "conv, sides differ": _head(
        COLOUR, nn.Conv2d(3, 4, (2, 3), stride=(1, 2), padding=(2, 1), dilation=(2, 1)), nn.ReLU()
    ),
    "inverted residual": _head(COLOUR, InvertedResidual(3, 3, 2, 1), InvertedResidual(3, 4, 2, 2)),
    "resized": _head(COLOUR, Resize((5, 5), (7, 3)), nn.Conv2d(3, 2, 3), nn.ReLU()),
    "conv with groups": _head(IMAGE, nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=2), nn.ReLU()),
    "conv, padding same": _head(COLOUR, nn.Conv2d(3, 2, 3, padding="same", dilation=2), nn.ReLU()),
    "conv, padding valid": _head(COLOUR, nn.Conv2d(3, 2, 2, padding="valid"), nn.ReLU()),
    "conv, reflected": _head(COLOUR, nn.Conv2d(3, 2, 3, padding=2, padding_mode="reflect"), nn.ReLU()),
    "conv, circular": _head(IMAGE, nn.Conv2d(1, 2, 3, padding=1, padding_mode="circular"), nn.ReLU()),
    "conv, replicated": _head(IMAGE, nn.Conv2d(1, 2, 3, padding=1, padding_mode="replicate", bias=False), nn.ReLU()),
    "conv 1d": _head(SIGNAL, nn.Conv1d(2, 4, 3, stride=2, padding=2, dilation=2), nn.ReLU()),
    "conv 1d, same, groups": _head(SIGNAL, nn.Conv1d(2, 4, 3, padding="same", groups=2), nn.ReLU(), nn.Conv1d(4, 2, 3)),
    "conv 3d": _head((1, 3, 4, 3), nn.Conv3d(1, 3, 2), nn.ReLU()),
    # Normalisation and dropout
    "batchnorm 2d": _head(IMAGE, nn.Conv2d(1, 3, 3, bias=False), nn.BatchNorm2d(3), nn.ReLU(), nn.Dropout2d(0.5)),
    "batchnorm 1d": _head(VECTOR, nn.Linear(6, 7), nn.BatchNorm1d(7), nn.ReLU(), nn.Dropout(0.5)),
    "batchnorm 1d of signals": _head(SIGNAL, nn.Conv1d(2, 3, 3), nn.BatchNorm1d(3, affine=False), nn.ReLU()),
    "batchnorm first": _head(COLOUR, nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 2, 3)),
    "normalised": Case(Normalised, COLOUR),
    # Activations
    "relu, functional": _body(VECTOR, lambda x, a, b: b(functional.relu(a(x))), _line(6, 7), _line(7)),
    "relu, method": _body(VECTOR, lambda x, a, b: b(a(x).relu()), _line(6, 7), _line(7)),
    "relu in place": _around(lambda: nn.ReLU(inplace=True)),
    "all in place": _body(VECTOR, _everything_in_place, _line(6, 6), _line(3)),
    "leaky relu": _around(lambda: nn.LeakyReLU(0.3)),
    "leaky relu, default": _around(nn.LeakyReLU),
    "leaky relu, steep": _around(lambda: nn.LeakyReLU(1.7)),
    "leaky relu, falling": _around(lambda: nn.LeakyReLU(-0.4)),
    "absolute": _body(VECTOR, lambda x, a, b: b(a(x).abs()), _line(6, 7), _line(7)),
    "silu": _around(nn.SiLU),
    "gelu": _around(nn.GELU),
    "gelu, tanh": _around(lambda: nn.GELU(approximate="tanh")),
    "tanh": _around(nn.Tanh),
    "sigmoid": _around(nn.Sigmoid),
    "bent last": _body(VECTOR, lambda x, a: a(x).tanh(), _line(6)),
    "bent first": _body(VECTOR, lambda x, a: a((x - 0.5).relu()), _line(6)),
    "bent twice": _body(VECTOR, lambda x, a, b: b(a(x).tanh().abs()), _line(6, 7), _line(7)),
    # Pooling
    "max pooling": _head(IMAGE, nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
    "max pooling, overlapping": _head(COLOUR, nn.Conv2d(3, 3, 2), nn.MaxPool2d(3, 1, 1), nn.ReLU()),
    "max pooling, sides differ": _head(
        IMAGE, nn.Conv2d(1, 2, 1), nn.MaxPool2d((2, 3), (3, 2), (1, 0), ceil_mode=True), nn.ReLU()
    ),
    "max pooling, dilated": _head(IMAGE, nn.MaxPool2d(2, 1, 1, 3), nn.Conv2d(1, 2, 2), nn.ReLU()),
    "max pooling, ceiling": _head(COLOUR, nn.MaxPool2d(2, ceil_mode=True), nn.Conv2d(3, 2, 2), nn.ReLU()),
    "max pooling 1d": _head(SIGNAL, nn.Conv1d(2, 3, 3, padding=1), nn.MaxPool1d(3, 2, 1)),
    "max pooling 1d, dilated": _head(SIGNAL, nn.Conv1d(2, 2, 2), nn.MaxPool1d(2, 3, dilation=2, ceil_mode=True)),
    "max pooling, twice": _head(COLOUR, nn.MaxPool2d(2, 1), nn.MaxPool2d(2, 1)),
    "adaptive max pooling": _head(COLOUR, nn.Conv2d(3, 2, 1), nn.AdaptiveMaxPool2d((2, 3)), nn.ReLU()),
    "adaptive max pooling 1d": _head(SIGNAL, nn.Conv1d(2, 2, 1), nn.AdaptiveMaxPool1d(4)),
    "average pooling": _head(
        COLOUR, nn.Conv2d(3, 3, 2, padding=1), nn.ReLU(), nn.AvgPool2d(3, 2, 1, count_include_pad=False)
    ),
    "average pooling, padded": _head(COLOUR, nn.Conv2d(3, 3, 2), nn.ReLU(), nn.AvgPool2d(2, 2, 1, ceil_mode=True)),
    "average pooling 1d": _head(SIGNAL, nn.Conv1d(2, 3, 3), nn.ReLU(), nn.AvgPool1d(3, 2, 1, count_include_pad=False)),
    "adaptive average pooling": _head(COLOUR, nn.Conv2d(3, 3, 1), nn.ReLU(), nn.AdaptiveAvgPool2d((2, 3))),
    "adaptive average pooling 1d": _head(SIGNAL, nn.Conv1d(2, 3, 3), nn.ReLU(), nn.AdaptiveAvgPool1d(3)),
    "means": _body(IMAGE, lambda x, a, b: b(a(x).relu().mean((2, 3))), lambda: nn.Conv2d(1, 4, 3), _line(4)),
    "sums": _body(SIGNAL, lambda x, a, b: b(a(x).tanh().sum(-1)), lambda: nn.Conv1d(2, 4, 3), _line(4)),
    # Shapes
    "view, permute": _body(
        COLOUR,
        lambda x, a, b: b(a(x).permute(0, 2, 3, 1).contiguous().view(x.shape[0], -1, 2).transpose(1, 2).relu().mean(2)),
        lambda: nn.Conv2d(3, 2, 2),
        _line(2),
    ),
    "squeeze, unsqueeze": _body(
        VECTOR,
        lambda x, a, b: b(a(x[:, None]).relu().unsqueeze(3).squeeze(3).reshape(-1, 8)),
        lambda: nn.Conv1d(1, 2, 3),
        _line(8),
    ),
    "unflatten, view as": _body(
        VECTOR, lambda x, a, b: b(a(x).unflatten(1, (2, 3)).relu().flatten(1).view_as(x)), _line(6, 6), _line(6)
    ),
    "slices": _body(
        SIGNAL,
        lambda x, a, b: b(torch.cat([a(x)[:, :, 1::3], a(x)[..., -2:], x[:, :1, :2]], -1).tanh().flatten(1)),
        lambda: nn.Conv1d(2, 1, 2),
        _line(7),
    ),
    "select": _body(SIGNAL, lambda x, a, b: b(a(x[:, 1]).relu() + a(x)[:, 0]), _line(9, 4), _line(4)),
    "pad": _body(
        COLOUR,
        lambda x, a, b: b(functional.pad(a(x), (1, 0, 2, 1), value=0.7).relu().flatten(1)),
        lambda: nn.Conv2d(3, 1, 3),
        _line(24),
    ),
    "pad with channels": _body(
        COLOUR,
        lambda x, a, b: b(functional.pad(a(x)[:, :, ::2, ::2], (0, 0, 0, 0, 0, 2)).relu().flatten(1)),
        lambda: nn.Conv2d(3, 1, 1),
        _line(27),
    ),
    "pad, reflected": _body(
        SIGNAL,
        lambda x, a, b: b(functional.pad(a(x), (2, 1), mode="reflect").relu().flatten(1)),
        lambda: nn.Conv1d(2, 1, 3),
        _line(10),
    ),
    # Several branches
    "residual": _body(COLOUR, _square, *[lambda: nn.Conv2d(3, 3, 3, padding=1)] * 2, _line(75)),
    "twice itself": _body(VECTOR, lambda x, a, b: b((a(x) + a(x) + x + x).relu()), _line(6, 6), _line(6)),
    "sums with factors": _body(
        VECTOR,
        lambda x, a, b: b(torch.add(torch.sub(x, a(x).relu(), alpha=3), x - 2 * a(x), alpha=-0.5)),
        _line(6, 6),
        _line(6),
    ),
    "constants": _body(
        VECTOR, lambda x, a, b: b(-(1 - a(x) / 4).relu() + 2 - torch.rsub(x, 3, alpha=2) * 0.5), _line(6, 6), _line(6)
    ),
    "concatenation": _body(
        VECTOR,
        lambda x, a, b: b(torch.cat([a(x).relu(), x, torch.ones(1, 2, dtype=x.dtype).expand(len(x), 2)], dim=1)),
        _line(6, 4),
        _line(12),
    ),
    "concatenation of zeros": _body(
        COLOUR,
        lambda x, a, b: b(torch.cat([a(x), torch.zeros(len(x), 2, 4, 4, dtype=x.dtype)], 1).relu().flatten(1)),
        lambda: nn.Conv2d(3, 2, 2),
        _line(64),
    ),
    "chunks": _body(
        VECTOR,
        lambda x, a, b: b(torch.cat([part.relu() * k for k, part in enumerate(a(x).chunk(3, 1))], 1)),
        _line(6, 7),
        _line(7),
    ),
    "split": _body(
        VECTOR,
        lambda x, a, b: b(a(x).split([2, 5], dim=-1)[1].relu() + a(x).split(5, 1)[0].tanh()),
        _line(6, 7),
        _line(5),
    ),
    "unbind": _body(SIGNAL, lambda x, a, b: b(a(x.unbind(1)[1]).relu() - a(x.unbind(1)[0])), _line(9, 4), _line(4)),
    "relu6": _around(nn.ReLU6),
    "hard tanh in place": _around(lambda: nn.Hardtanh(-0.5, 0.25, inplace=True)),
    "maxout": _body(VECTOR, lambda x, a, b: b(a(x).view(-1, 4, 3).amax(2)), _line(6, 12), _line(4)),
    "maxout convolution": _head(
        COLOUR, Maxout(nn.Conv2d(3, 4, 3, padding=1), 2), nn.MaxPool2d(3, 2, ceil_mode=True), nn.Flatten()
    ),
    "maxout, values": _body(
        COLOUR,
        lambda x, a, b: b(a(x).max(dim=1, keepdim=True).values.flatten(1)),
        lambda: nn.Conv2d(3, 4, 2),
        _line(16),
    ),
    "maxout, two dimensions": _body(
        COLOUR, lambda x, a, b: b(a(x).relu().amax((1, -1))), lambda: nn.Conv2d(3, 4, 2), _line(4)
    ),
    "larger of two": _body(VECTOR, lambda x, a, b, c: c(torch.maximum(a(x), b(x))), *[_line(6, 5)] * 2, _line(5)),
    "larger of two, max": _body(
        VECTOR, lambda x, a, b, c: c(torch.max(a(x), other=b(x))), _line(6, 5), _line(6, 5), _line(5)
    ),
    "floors": _body(
        VECTOR,
        lambda x, a, b: b(torch.max(torch.maximum(torch.tensor(-0.25), a(x)), torch.arange(5).to(x) / 8 - 0.25)),
        _line(6, 5),
        _line(5),
    ),
    "shared weights": _body(VECTOR, _shared, _line(6, 6), _line(6)),
    "orthogonal": Case(
        lambda: nn.Sequential(parametrizations.orthogonal(nn.Linear(6, 5)), nn.ReLU(), nn.Linear(5, CLASSES)), VECTOR
    ),
    "spectral norm": Case(
        lambda: nn.Sequential(
            parametrizations.spectral_norm(nn.Conv2d(3, 2, 2)), nn.ReLU(), nn.Flatten(), nn.Linear(32, CLASSES)
        ),
        COLOUR,
    ),
}
"""Networks with bends."""


def _built_in(name: str, shape: Shape, *widths: int) -> Case:
    return Case(lambda: NETWORKS[name](shape, CLASSES, *widths), shape)


BUILT_IN: dict[str, Case] = {
    "built-in linear": _built_in("linear", IMAGE),
    "built-in mlp": _built_in("mlp", SIGNAL, 8, 6),
    "built-in cnn": _built_in("cnn", (3, 8, 8), 2),
    "built-in cnn, large": _built_in("cnn", (1, 20, 20), 1),
    "built-in convnet": _built_in("convnet", (3, 8, 8), 2),
    "built-in resnet8": _built_in("resnet8", (3, 8, 8), 3),
    "built-in resnet20": _built_in("resnet20", (1, 8, 8), 2),
    "built-in wrn": _built_in("wrn", (1, 6, 6), 10, 1),
    "built-in lipschitz": _built_in("lipschitz", VECTOR, 8, 5),
}
"""Entries of `models.NETWORKS` that can be small."""
PUBLISHED = {
    *("resnet32", "resnet56"),  # as resnet8
    *("maxout", "fitnet1", "fitnet2", "fitnet3", "fitnet4"),  # their layers: "maxout", "maxout convolution"
    "mobilenetv2",  # its layers: "depthwise", "relu6"
}
"""Entries that only have the size they were published with: the zoo holds their layers in small."""
DEEPER = {"resnet32", "resnet56", "fitnet2", "fitnet3"}
"""Entries whose layers are those of another one, only more of them."""
ALL: dict[str, Case] = AFFINE | ZOO | BUILT_IN


def network_of(name: str, device: torch.device, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A new network with weights, biases and running statistics of its own, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(sum(map(ord, name)))
        network = ALL[name].build()
        with torch.no_grad():
            for module in network.modules():
                if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                    _shake(module)
                elif isinstance(getattr(module, "weight", None), nn.Parameter):
                    module.get_parameter("weight").mul_(2.0)  # or else the logits hardly depend on the input
    return network.eval().to(device=device, dtype=dtype)


def _shake(module: nn.BatchNorm1d | nn.BatchNorm2d) -> None:
    """Statistics and weights unlike those of a new layer; some weights are negative."""
    module.get_buffer("running_mean").normal_(0.1, 0.3)
    module.get_buffer("running_var").uniform_(0.2, 2.0)
    if module.affine:
        module.weight.normal_(0.0, 1.0)
        module.bias.normal_(0.4, 0.3)


def double(network: nn.Module) -> nn.Module:
    """A float64 copy."""
    return copy.deepcopy(network).double()


def size_of(shape: Shape) -> int:
    """Elements of one input."""
    return math.prod(shape)
