"""A traced network computes what the network computes, step by step."""

from collections.abc import Callable

import pytest
import torch
import zoo
from reference import seeded
from torch import Tensor, nn
from zoo import ALL, IMAGE, VECTOR, Body, double, network_of
from zoo_balls import inputs_of, layers_of, traced

from robust_student.bounds.layers import Layers
from robust_student.bounds.operations import Affine, Elementwise, Maximum
from robust_student.bounds.trace import trace
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
        traced = trace(network, (3, 18, 20)).layers(torch.float64)(points)
        torch.testing.assert_close(traced, double(network)(points), rtol=1e-9, atol=1e-9)


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
    traced, expected = graph.layers()(inputs), network(inputs)
    torch.testing.assert_close(traced, expected, rtol=1e-9, atol=1e-9)
    weights = torch.linspace(-1, 1, traced.numel(), dtype=traced.dtype, device=device).view_as(traced)
    gradients = [
        torch.autograd.grad((weights * logits).sum(), parameters, allow_unused=True, materialize_grads=True)
        for logits in (traced, expected)
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
