"""Outputs of inner layers: the very tensors, in the network's mode, with gradients, and no hook left behind."""

import pytest
import torch
from reference import message_of, toy_data
from torch import Tensor, nn

from robust_student.core.errors import UserError
from robust_student.core.layer_outputs import features, watching
from robust_student.models.model import as_model

INPUTS = torch.rand(4, 6, generator=torch.Generator().manual_seed(1))


class Pair(nn.Module):
    """Gives two tensors."""

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        return inputs, inputs


class Network(nn.Module):
    """Two layers, one that gives a pair and one that takes no part."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm, self.last = nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)
        self.pair, self.idle = Pair(), nn.Linear(2, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.last(self.pair(self.norm(self.first(inputs)))[0].relu())


def hooks(network: nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in network.modules())


@pytest.mark.parametrize("training", [True, False])
def test_they_are_the_layers_outputs_in_the_networks_mode(training: bool) -> None:
    network = Network().train(training)
    outputs = features(network, INPUTS, ["norm", "first"])
    assert list(outputs) == ["norm", "first"] and network.training is training and hooks(network) == 0
    first = network.first(INPUTS)
    torch.testing.assert_close(outputs["first"], first)
    centred = (first - first.mean(dim=0)) / (first.var(dim=0, unbiased=False) + 1e-5).sqrt()
    if training:
        torch.testing.assert_close(outputs["norm"], centred)
    else:
        assert not torch.allclose(outputs["norm"], centred, atol=1e-2)


def test_gradients_flow_through_them() -> None:
    network = Network()
    torch.autograd.backward(features(network, INPUTS, ["first"])["first"].sum())
    assert network.first.weight.grad is not None and network.last.weight.grad is None


@pytest.mark.parametrize(
    ("layer", "complaint"),
    [
        ("frist", "model: has no layer 'frist'; did you mean 'first'?"),
        ("zzz", "model: has no layer 'zzz'; choose from first, idle, last, norm, pair"),
        ("pair", "model: layer 'pair' gives a tuple, not a tensor; name another one"),
        ("idle", "model: layer 'idle' takes no part in a forward pass; name another one"),
    ],
)
def test_a_layer_that_cannot_be_shown_is_one_line_and_no_hook_stays(layer: str, complaint: str) -> None:
    network = Network()
    assert message_of(lambda: features(network, INPUTS, ["first", layer])) == complaint
    assert hooks(network) == 0


def test_hooks_go_when_the_network_fails() -> None:
    network = Network()
    with pytest.raises(RuntimeError), watching(network, ["first"]):
        network(torch.rand(2, 7))
    assert hooks(network) == 0


def test_a_models_layers_are_named_as_in_its_network() -> None:
    data = toy_data()
    model = as_model("cnn:4", data).eval()
    inputs = data.training_examples.floats(slice(0, 3))
    names = [name for name, _ in model.network.named_modules() if name]
    outputs = model.features(inputs, names[:1])
    with watching(model.network, names[:1]) as seen:
        model(inputs)
    torch.testing.assert_close(outputs, seen)
    with pytest.raises(UserError, match=f"choose from .*{names[0]}"):
        model.features(inputs, ["zzzzzz"])
    assert torch.equal(model.features(inputs, [f"network.{names[0]}"])[f"network.{names[0]}"], outputs[names[0]])
