"""What a network answers to its probe, and up to what two answers are the same."""

import numpy as np
import pytest
import torch
from reference import affine, assert_state, prototype_classifier, state_of, toy_data
from torch import Tensor, nn

from robust_student.core.tensors import UNBOUNDED, InputRange
from robust_student.models.fingerprint import PROBE, difference
from robust_student.models.model import Model, as_model
from robust_student.models.probe import ALIKE, ODD, Answers, probe, probe_architecture
from robust_student.models.registry import NETWORKS

DATA = toy_data()
NETWORKS_TRIED = ["linear", "mlp:8", "lipschitz:8", "cnn:2", "convnet:2", "resnet8", "wrn-10-1", "mobilenetv2"]


class Changed(nn.Module):
    """Another network's logits, changed by a function."""

    def __init__(self, change: str, inner: nn.Module | None = None) -> None:
        super().__init__()
        self.inner, self.change = inner or prototype_classifier(DATA), change

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.inner(inputs)
        if self.change == "random":
            return logits + torch.randn_like(logits)
        if self.change == "random, from numpy":
            return logits + 10 * torch.from_numpy(np.random.default_rng().normal(size=tuple(logits.shape))).float()
        if self.change == "nan":
            return logits.masked_fill((inputs.flatten(1).mean(dim=1) > 0.5)[:, None], float("nan"))
        return logits


def model(change: str = "", inner: nn.Module | None = None) -> Model:
    return as_model(Changed(change, inner), DATA)


def difference_of(there: Answers | None, here: Answers | None) -> str | None:
    """The difference between two fingerprints of one network."""
    return difference({"seed": 0, PROBE: {"kd": there}}, {"seed": 0, PROBE: {"kd": here}})


def answers() -> Answers:
    made = probe(model())
    assert made is not None
    return made


def scaled(factor: float, count: int) -> Answers:
    """The first `count` inputs' logits times a factor."""
    return [[factor * (v or 0.0) for v in row] if k < count else row for k, row in enumerate(answers())]


def test_a_probe_is_the_logits_of_inputs_within_the_range_that_differ() -> None:
    made = answers()
    assert len(made) == 16 and all(len(row) == 3 for row in made) and len({str(row) for row in made}) == 16
    assert made == answers()
    for input_range in (InputRange(-2.0, 5.0), InputRange(0.0, float("inf")), UNBOUNDED):
        seen: list[Tensor] = []
        data = toy_data(shape=(5,), input_range=input_range)
        watched = as_model(prototype_classifier(data), data)
        watched.register_forward_pre_hook(lambda module, arguments, seen=seen: seen.append(arguments[0]))
        probe(watched)
        assert torch.equal(input_range.clip(seen[0]), seen[0]) and float(seen[0].std()) > 0.1


def test_rounding_is_no_difference_and_another_function_is() -> None:
    few = int(ODD * 16)
    assert difference_of(answers(), answers()) is None
    assert difference_of(answers(), scaled(1 + ALIKE / 2, 16)) is None
    assert difference_of(answers(), scaled(-3.0, few)) is None  # rounding turned a step inside the network
    for other in (scaled(1 + 3 * ALIKE, 16), scaled(-3.0, few + 1), answers()[:8], probe(model("nan"))):
        assert difference_of(answers(), other) == (
            "probe.kd: the same weights give other logits, so code that the network calls has changed"
        )
    wider = probe(as_model(affine(torch.ones(4, 16)), toy_data(classes=4)))
    assert difference_of(answers(), wider) is not None


def test_no_answer_is_an_answer() -> None:
    made = probe(model("nan"))
    assert made is not None and made == probe(model("nan")) and [None] * 3 in made
    assert difference_of(made, made) is None and difference_of(made, answers()) is not None


def test_answers_at_random_are_no_fingerprint_and_the_random_state_stays() -> None:
    assert probe(model("random, from numpy")) is None
    assert difference_of(None, answers()) is None is difference_of(answers(), None)
    noisy = model("random")
    torch.manual_seed(7)
    before = torch.get_rng_state()
    seeded = probe(noisy)
    assert seeded == probe(noisy) and seeded is not None  # torch's own numbers are the same every time
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("name", NETWORKS_TRIED)
def test_the_probe_of_an_architecture_does_not_depend_on_its_weights_and_leaves_them(name: str) -> None:
    data = toy_data(shape=(3, 8, 8))
    torch.manual_seed(0)
    first, second = as_model(name, data), as_model(name, data)
    before = state_of(first)
    made = probe_architecture(first)
    assert made is not None and made == probe_architecture(second)
    assert_state(first, before)
    assert len({str(row) for row in made}) > 8 and None not in made[0]
    assert name.split(":")[0].split("-")[0] in NETWORKS


def test_an_architecture_that_computes_something_else_has_another_probe() -> None:
    def network(activation: nn.Module) -> Model:
        return as_model(nn.Sequential(nn.Flatten(), nn.Linear(16, 8), activation, nn.Linear(8, 3)), DATA)

    relu = probe_architecture(network(nn.ReLU()))
    assert difference_of(relu, probe_architecture(network(nn.LeakyReLU(0.1)))) is not None
    assert difference_of(relu, probe_architecture(network(nn.ReLU()))) is None


class Picky(nn.Module):
    """Refuses weights that are not zero on the diagonal."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(16, 3))

    def forward(self, inputs: Tensor) -> Tensor:
        if bool(self.weight.detach().any()):
            raise ValueError("not zero")
        return inputs.flatten(1) @ self.weight


def test_a_network_that_cannot_compute_with_other_weights_has_no_probe() -> None:
    picky = as_model(Picky(), DATA)
    assert probe_architecture(picky) is None and not picky.state_dict()["network.weight"].any()
