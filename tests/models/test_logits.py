"""Whatever a network returns, its logits are found or refused by name."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from reference import message_of, toy_data
from torch import Tensor, nn

from robust_student.models.logits import logits_of
from robust_student.models.model import as_model

LOGITS = torch.arange(12.0).view(4, 3)
OTHER = torch.zeros(4, 7)


class ModelOutput(OrderedDict[str, Any]):
    """As the one of Hugging Face transformers: a mapping whose entries are attributes too."""


class Named(NamedTuple):
    aux: Tensor
    logits: Tensor


class Unnamed(NamedTuple):
    features: Tensor
    scores: Tensor


@dataclass
class Result:
    hidden: Tensor
    logits: Tensor


class Plain:
    def __init__(self) -> None:
        self.loss, self.scores = 3.0, LOGITS


@pytest.mark.parametrize(
    "output",
    [
        LOGITS,
        (LOGITS, OTHER),
        (OTHER, LOGITS),
        [None, LOGITS],
        {"logits": LOGITS, "hidden": LOGITS + 1},
        {"hidden": LOGITS + 1, "logits": LOGITS},
        {"loss": None, "scores": LOGITS},
        ModelOutput(loss=torch.zeros(()), logits=LOGITS, hidden_states=(OTHER,)),
        Named(LOGITS + 1, LOGITS),
        Unnamed(OTHER, LOGITS),
        Result(LOGITS + 1, LOGITS),
        Plain(),
    ],
    ids=lambda output: type(output).__name__,
)
def test_logits_are_found(output: Any) -> None:
    assert logits_of(output, 3) is LOGITS


@pytest.mark.parametrize("output", [(OTHER,), {"loss": 1.0}, None, "text", 3.0, [], (LOGITS[:, None],)], ids=str)
def test_what_holds_no_logits_is_refused_by_its_type(output: Any) -> None:
    message = message_of(lambda: logits_of(output, 3))
    assert "expected 3 logits" in message and type(output).__name__ in message


class Wrapped(nn.Module):
    """A network that returns a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 3)

    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        flat = inputs.flatten(1)
        return {"features": flat, "logits": self.layer(flat)}


def test_a_model_of_a_network_that_returns_a_dictionary_gives_logits() -> None:
    data, network = toy_data(), Wrapped()
    inputs = data.test.floats()
    assert torch.equal(as_model(network, data)(inputs), network(inputs)["logits"])


def test_torchvisions_training_outputs_are_understood() -> None:
    from torchvision.models import googlenet

    torch.manual_seed(0)
    network = googlenet(weights=None, num_classes=3, init_weights=False).train()
    output = network(torch.rand(2, 3, 64, 64))
    assert not isinstance(output, Tensor) and logits_of(output, 3) is output.logits
