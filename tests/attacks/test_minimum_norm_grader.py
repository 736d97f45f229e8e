"""What the grader of attacks of least size promises."""

import math
from collections.abc import Callable

import pytest
import torch
from reference import affine, make_batch, norm_for
from smallest_change import CPU, EASY, SHAPE, every_attack_and_norm, find, relu_student
from torch import Tensor, nn

from robust_student.attacks.minimum_norm import (
    MINIMUM_NORM_ATTACKS,
    Effort,
    Smallest,
    smallest_confidence_loss,
    smallest_decision_change,
)
from robust_student.core.norms import Norm, NormName
from robust_student.core.tensors import UNBOUNDED, UNIT_RANGE, InputRange
from robust_student.core.threat_model import ThreatModel


@pytest.mark.parametrize("name", ["l2", "linf"])
def test_the_result_is_the_smallest_of_what_each_attack_finds_alone(name: NormName) -> None:
    network, norm = relu_student(SHAPE, 4), Norm.named(name)
    inputs = make_batch(SHAPE, CPU, examples=16).inputs
    labels = network(inputs).argmax(dim=1)
    attacks = tuple(attack for attack in MINIMUM_NORM_ATTACKS if name in MINIMUM_NORM_ATTACKS[attack].norms)
    effort = Effort(pgd_steps=2, steps=8)
    joint = find(network, inputs, labels, norm, UNIT_RANGE, attacks=attacks, effort=effort)
    alone = {a: find(network, inputs, labels, norm, UNIT_RANGE, attacks=(a,), effort=effort) for a in attacks}
    radii = torch.stack([smallest.radius for smallest in alone.values()])
    assert torch.equal(joint.radius, radii.amin(dim=0))
    for i, attack in enumerate(joint.attack):
        assert attack == "none" or torch.equal(joint.points[i], alone[attack].points[i])
    assert len(set(joint.attack)) > 1


@every_attack_and_norm
@pytest.mark.parametrize("limits", [UNIT_RANGE, InputRange(-1.0, 2.0), UNBOUNDED], ids=["unit", "wide", "none"])
def test_every_attack_obeys_the_range_and_every_point_is_verified(
    attack: str, name: NormName, limits: InputRange
) -> None:
    network, norm = relu_student((2, 3), 4).float(), norm_for(name, (2, 3), not limits.bounded, CPU)
    batch = make_batch((2, 3), CPU, classes=4, examples=10, input_range=limits)
    inputs = batch.inputs.float()
    smallest = find(network, inputs, batch.labels, norm, limits, attacks=(attack,), effort=EASY)
    wrong = network(inputs).argmax(dim=1) != batch.labels
    assert [name == "clean" for name in smallest.attack] == wrong.tolist() and wrong.any() and not wrong.all()
    assert attack in smallest.attack


class Recorder(nn.Module):
    """Remembers the batches that a network sees."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.gradients = network, list[Tensor]()

    def forward(self, inputs: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            self.gradients.append(inputs.detach().clone())
        return self.network(inputs)


@pytest.mark.parametrize("attack", list(MINIMUM_NORM_ATTACKS))
def test_examples_that_are_wrong_already_do_not_enter_the_attacks(attack: str) -> None:
    network = Recorder(affine(torch.tensor([[-1.0, 0.0], [1.0, 0.0]])))
    inputs, labels = torch.tensor([[0.3, 0.2], [0.4, 0.9]]), torch.tensor([1, 0])
    smallest = find(network, inputs - 0.2, labels, Norm.named("l2"), InputRange(-1.0, 1.0), attacks=(attack,))
    assert smallest.attack == [attack, "clean"] and smallest.radius[1] == 0
    assert torch.equal(smallest.points[1], (inputs - 0.2)[1])
    # Only the first-order slope at x is taken of the whole batch.
    first = [batch for batch in network.gradients if len(batch) == 2]
    assert all(torch.equal(batch, inputs - 0.2) for batch in first) and len(network.gradients) > len(first)


class Constant(nn.Module):
    """The same logits everywhere, with no gradient at all."""

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.tensor([1.0, 0.0, 0.0]).expand(len(inputs), 3)


@every_attack_and_norm
@pytest.mark.parametrize("limits", [UNIT_RANGE, UNBOUNDED], ids=["unit", "none"])
@pytest.mark.parametrize("build", [Constant, lambda: affine(torch.zeros(3, 6), torch.tensor([1.0, 0.0, 0.0]))])
def test_nothing_is_found_where_nothing_can_be_found(
    attack: str, name: NormName, limits: InputRange, build: Callable[[], nn.Module]
) -> None:
    inputs = make_batch(SHAPE, CPU, examples=2).inputs.float()
    smallest = find(
        build(),
        inputs,
        torch.zeros(2, dtype=torch.int64),
        Norm.named(name),
        limits,
        attacks=(attack,),
        effort=Effort(budgets=6, pgd_steps=2, steps=5),
    )
    assert smallest.radius.tolist() == [math.inf] * 2 and smallest.attack == ["none"] * 2
    assert torch.equal(smallest.points, inputs)


class Blind(nn.Module):
    """Undefined right of `edge`; class 1 right of zero where that comes first."""

    def __init__(self, edge: float, value: float) -> None:
        super().__init__()
        self.edge, self.value = edge, value

    def forward(self, inputs: Tensor) -> Tensor:
        slope = inputs.flatten(1)[:, :1]
        logits = torch.cat([-slope, slope], dim=1)
        return torch.where(slope > self.edge, self.value, logits)


@pytest.mark.parametrize("attack", list(MINIMUM_NORM_ATTACKS))
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_undefined_logits_prove_nothing(attack: str, value: float) -> None:
    inputs, labels = torch.tensor([[-0.5, 0.0], [-0.9, 0.3]]), torch.tensor([0, 0])
    limits, norm = InputRange(-1.0, 1.0), Norm.named("l2")
    smallest = find(Blind(0.1, value), inputs, labels, norm, limits, attacks=(attack,))
    for radius, true in zip(smallest.radius.tolist(), (0.5, 0.9), strict=True):
        assert radius == math.inf or true <= radius <= true + 0.1
    hopeless = find_raw(Blind(-0.1, value), inputs, labels, attack)
    assert hopeless.radius.tolist() == [math.inf] * 2 and hopeless.attack == ["none"] * 2


def find_raw(network: nn.Module, inputs: Tensor, labels: Tensor, attack: str) -> Smallest:
    return smallest_decision_change(
        network,
        inputs,
        labels,
        ThreatModel.named("l2", None, InputRange(-1.0, 1.0), inputs.shape[1:]),
        seeds=range(len(inputs)),
        attacks=(attack,),
    )


def test_undefined_numbers_at_the_input_count_as_broken() -> None:
    inputs = torch.tensor([[0.5, 0.0], [-0.5, 0.0]])
    smallest = find_raw(Blind(0.1, math.nan), inputs, torch.tensor([0, 0]), "pgd-bisection")
    assert smallest.attack == ["clean", "pgd-bisection"] and smallest.radius[0] == 0
    lost = smallest_confidence_loss(
        affine(torch.eye(2)),
        inputs,
        torch.tensor([0, 0]),
        torch.tensor([[math.nan, 0.0], [-9.0, 0.0]]),
        ThreatModel.named("l2", None, InputRange(-1.0, 1.0), (2,)),
        seeds=[0, 1],
    )
    assert lost.attack == ["clean", "none"] and lost.radius.tolist() == [0.0, math.inf]
