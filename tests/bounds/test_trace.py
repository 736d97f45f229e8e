"""A traced network computes what the network computes, step by step, and refuses what cannot be bounded."""

import dataclasses
import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
import zoo
from reference import Shape, message_of, seeded
from torch import Tensor, nn
from torch.nn import functional
from zoo import ALL, COLOUR, IMAGE, SIGNAL, VECTOR, Body, double, inputs_of, layers_of, network_of, traced

from robust_student.bounds.layers import Layers
from robust_student.bounds.operations import Affine, Elementwise, Maximum
from robust_student.bounds.trace import trace
from robust_student.core.errors import UserError
from robust_student.models.registry import NETWORKS, build

every_network = pytest.mark.parametrize("name", ALL)


@every_network
def test_the_layers_are_the_network(name: str, device: torch.device) -> None:
    network, layers = network_of(name, device), layers_of(name, device)
    inputs = 3 * inputs_of(name, device, examples=7) - 1
    expected = double(network)(inputs)
    assert expected.shape == (7, zoo.CLASSES) and layers(inputs).dtype is torch.float64
    torch.testing.assert_close(layers(inputs), expected, rtol=1e-9, atol=1e-9)


def test_every_built_in_network_is_in_the_zoo() -> None:
    assert {name.removeprefix("built-in ").partition(",")[0] for name in zoo.BUILT_IN} == set(NETWORKS) - zoo.PUBLISHED


@pytest.mark.parametrize("name", sorted(set(NETWORKS) - zoo.DEEPER))
def test_built_in_networks_can_be_traced_at_their_default_widths(name: str, device: torch.device) -> None:
    network = build(name, (3, 18, 20), 5).eval().to(device)
    points = torch.rand((3, 3, 18, 20), dtype=torch.float64, device=device)
    with torch.no_grad():
        found = trace(network, (3, 18, 20)).layers(torch.float64)(points)
        torch.testing.assert_close(found, double(network)(points), rtol=1e-9, atol=1e-9)


@every_network
def test_the_layers_follow_the_weights_and_carry_their_gradients(name: str, device: torch.device) -> None:
    network = network_of(name, device, torch.float64)
    graph = trace(network, ALL[name].shape)
    with torch.no_grad():
        for tensor in [*network.parameters(), *network.buffers()]:
            if tensor.is_floating_point():
                tensor.mul_(1.25)
    inputs = inputs_of(name, device)
    parameters = list(network.parameters())
    found, expected = graph.layers()(inputs), network(inputs)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    weights = torch.linspace(-1, 1, found.numel(), dtype=found.dtype, device=device).view_as(found)
    gradients = [
        torch.autograd.grad((weights * logits).sum(), parameters, allow_unused=True, materialize_grads=True)
        for logits in (found, expected)
    ]
    assert sum(bool(gradient.any()) for gradient in gradients[1]) >= len(parameters) - 1  # "matmul" has no use for one
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-9, atol=1e-9)


def values_of(layers: Layers, inputs: Tensor) -> list[Tensor]:
    """The input and what every step gives."""
    values = [inputs]
    for step in layers.steps:
        values.append(step.operation.apply(*(values[k] for k in step.parents)))
    return values


@every_network
def test_steps_have_the_shapes_they_say_and_read_earlier_steps(name: str, device: torch.device) -> None:
    layers, inputs = layers_of(name, device), inputs_of(name, device, examples=2)
    values = values_of(layers, inputs)
    assert layers.shape == ALL[name].shape
    for number, (step, value) in enumerate(zip(layers.steps, values[1:], strict=True), start=1):
        assert value.shape == (2, *step.shape)
        assert all(0 <= parent < number for parent in step.parents)


def random_like(shape: Shape, layers: Layers, seed: int, batch: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    kind = layers.steps[0].operation
    like = kind.like if isinstance(kind, Affine) else torch.zeros(())
    return torch.randn((batch, *shape), generator=generator, dtype=torch.float64).to(like.device)


def parent_shapes(layers: Layers, number: int) -> list[Shape]:
    shapes = [layers.shape, *(step.shape for step in layers.steps)]
    return [tuple(shapes[parent]) for parent in layers.steps[number].parents]


def dense(map_: Callable[..., Tensor], shapes: list[Shape], like: Tensor) -> list[Tensor]:
    """The matrix of an affine map with respect to each of its inputs, column by column."""
    zeros = [like.new_zeros((1, *shape)) for shape in shapes]
    offset = map_(*zeros)
    found = []
    for k, shape in enumerate(shapes):
        columns = []
        for position in range(zeros[k].numel()):
            unit = [zero.clone() for zero in zeros]
            unit[k].view(-1)[position] = 1.0
            columns.append((map_(*unit) - offset).flatten())
        found.append(torch.stack(columns, dim=1))
        assert columns and shape == tuple(unit[k].shape[1:])
    return found


@every_network
@torch.no_grad()
def test_affine_steps_know_their_transpose_and_their_absolute_values(name: str, device: torch.device) -> None:
    layers = layers_of(name, device)
    for number, step in enumerate(layers.steps):
        if not isinstance(step.operation, Affine) or zoo.size_of(step.shape) > 200:
            continue
        shapes, operation = parent_shapes(layers, number), step.operation
        matrices = dense(operation.apply, shapes, operation.like)
        rows = random_like(tuple(step.shape), layers, number)
        inputs = [random_like(shape, layers, number + k).abs() for k, shape in enumerate(shapes)]
        pulled, spread = operation.pull(rows), operation.pull_spread(rows.abs())
        wide = operation.spread(*inputs)
        expected = torch.zeros(())
        for matrix, there, back, given in zip(matrices, pulled, spread, inputs, strict=True):
            torch.testing.assert_close(there.flatten(1), rows.flatten(1) @ matrix, rtol=1e-9, atol=1e-9)
            torch.testing.assert_close(back.flatten(1), rows.abs().flatten(1) @ matrix.abs(), rtol=1e-9, atol=1e-9)
            expected = expected + given.flatten(1) @ matrix.abs().T
        torch.testing.assert_close(wide.flatten(1), expected, rtol=1e-9, atol=1e-9)
        for p, order in ((1.0, 1), (2.0, 2), (torch.inf, torch.inf)):
            norm = sum(float(torch.linalg.matrix_norm(matrix, order)) for matrix in matrices)
            together = float(torch.linalg.matrix_norm(torch.cat(matrices, dim=1), order))
            found = operation.lipschitz(p, *[1.0] * len(matrices))
            assert together * (1 - 1e-9) <= norm * (1 + 1e-9) and found >= norm * (1 - 1e-9)
            if p != 2:
                assert found == pytest.approx(norm)


@every_network
def test_bent_steps_have_no_more_than_their_lipschitz_constant(name: str, device: torch.device) -> None:
    layers = layers_of(name, device)
    for number, step in enumerate(layers.steps):
        if isinstance(step.operation, Affine):
            continue
        (shape,) = parent_shapes(layers, number)
        first = random_like(shape, layers, number, batch=50)
        second = first + 0.3 * random_like(shape, layers, number + 1, batch=50)
        moved = (step.operation.apply(second) - step.operation.apply(first)).flatten(1)
        for p in (1.0, 2.0, torch.inf):
            sizes = [torch.linalg.vector_norm(change, p, dim=1) for change in (moved, (second - first).flatten(1))]
            assert (sizes[0] <= step.operation.lipschitz(p, 1.0) * sizes[1] * (1 + 1e-9)).all()


@pytest.mark.parametrize("name", [name for name in ALL if "max" in name or "cnn" in name or "larger" in name])
def test_windows_of_a_maximum_are_those_of_the_operation(name: str, device: torch.device) -> None:
    layers = layers_of(name, device)
    found: list[Maximum] = [step.operation for step in layers.steps if isinstance(step.operation, Maximum)]
    assert found
    for operation in found:
        inputs = random_like(operation.shape, layers, 5, batch=20)
        gathered = dataclasses.replace(operation, direct=None).apply(inputs)
        torch.testing.assert_close(gathered, operation.apply(inputs), rtol=0.0, atol=0.0)
        # Each window holds an element once, and at least one.
        for window in operation.window.tolist():
            inside = [position for position in window if position < operation.size]
            assert inside and len(set(inside)) == len(inside)


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("mlp", [Affine, Elementwise, Affine, Elementwise, Affine]),
        ("batchnorm 1d", [Affine, Affine, Elementwise, Affine, Affine]),
        ("maxout", [Affine, Affine, Maximum, Affine]),
    ],
)
def test_a_trace_has_one_step_for_each_operation(name: str, kinds: list[type], device: torch.device) -> None:
    assert [type(step.operation) for step in traced(name, device).layers().steps] == kinds


def test_tracing_restores_the_mode_of_every_module_and_leaves_the_buffers(device: torch.device) -> None:
    network = network_of("batchnorm 2d", device).train()
    network.get_submodule("1").eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    state = torch.get_rng_state()
    layers = trace(network, IMAGE).layers(torch.float64)
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    inputs = inputs_of("batchnorm 2d", device)
    torch.testing.assert_close(layers(inputs), double(network).eval()(inputs))


def test_a_float64_network_is_traced_in_float64(device: torch.device) -> None:
    network = network_of("mlp", device, torch.float64)
    assert trace(network, VECTOR).layers()(inputs_of("mlp", device)).dtype is torch.float64


def test_a_network_that_gives_back_its_input_has_a_step(device: torch.device) -> None:
    layers = trace(nn.Identity().to(device), VECTOR).layers(torch.float64)
    inputs = inputs_of("mlp", device)
    assert len(layers.steps) == 1 and torch.equal(layers(inputs), inputs)


def test_a_float_cast_that_loses_nothing_is_no_step(device: torch.device) -> None:
    network = Body(lambda x, a: a(x.float()), nn.Linear(6, 3)).to(device)
    inputs = inputs_of("mlp", device)
    torch.testing.assert_close(
        trace(network, VECTOR).layers(torch.float64)(inputs), double(network.get_submodule("parts.0"))(inputs)
    )


def test_a_float32_network_may_compute_in_float64_in_between(device: torch.device) -> None:
    network = Body(lambda x, a: a((x.double() - 0.3).float()), nn.Linear(6, 3)).to(device)
    inputs = inputs_of("mlp", device)
    expected = double(network.get_submodule("parts.0"))(inputs - 0.3)
    torch.testing.assert_close(trace(network, VECTOR).layers(torch.float64)(inputs), expected)


def read_before(x: Tensor, first: nn.Module, second: nn.Module) -> Tensor:
    hidden = x * 1.0
    early = first(hidden)
    return early + second(hidden.relu_()) + second(hidden)


def view_alone(x: Tensor, layer: nn.Module) -> Tensor:
    return layer((x * 1.0).view(-1, 2, 3).relu_().flatten(1))


@pytest.mark.parametrize(("forward", "layers"), [(read_before, 2), (view_alone, 1)])
def test_what_is_overwritten_may_be_read_before_and_by_its_new_name(
    forward: Callable[..., Tensor], layers: int, device: torch.device
) -> None:
    network = seeded(lambda: Body(forward, *(nn.Linear(6, 3) for _ in range(layers))), device)
    inputs = 2 * inputs_of("mlp", device) - 1
    torch.testing.assert_close(trace(network, VECTOR).layers()(inputs), network(inputs), rtol=1e-12, atol=1e-12)


# Refusals -----------------------------------------------------------------------------------------------------------


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
