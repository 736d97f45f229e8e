"""What attacks of least size depend on, what they leave alone, and what they refuse."""

import sys

import pytest
import torch
from reference import assert_rows, assert_state, conv_student, linear_student, make_batch, message_of, state_of
from smallest_change import CPU, EASY, SHAPE, every_norm, find, relu_student

from robust_student.attacks.minimum_norm import DEFAULT_ATTACKS, MINIMUM_NORM_ATTACKS, Effort, smallest_decision_change
from robust_student.core.norms import Norm, NormName
from robust_student.core.tensors import UNIT_RANGE
from robust_student.core.threat_model import ThreatModel


@pytest.mark.parametrize("attack", list(MINIMUM_NORM_ATTACKS))
def test_the_network_and_the_global_generator_stay_as_they_are(attack: str) -> None:
    network = conv_student((2, 4, 4), 3, CPU).train()
    parameters = list(network.parameters())
    parameters[0].requires_grad_(False)
    parameters[1].grad = torch.ones_like(parameters[1])
    batch, state, drawn = make_batch((2, 4, 4), CPU), state_of(network), torch.get_rng_state()
    labels = network.eval()(batch.inputs).argmax(dim=1)
    network.train()
    inputs = batch.inputs.clone().requires_grad_()
    smallest = smallest_decision_change(
        network, inputs, labels, ThreatModel.named("l2", None, UNIT_RANGE, (2, 4, 4)), seeds=range(6), attacks=(attack,)
    )
    assert attack in smallest.attack and inputs.grad is None
    assert_state(network, state)
    assert torch.equal(torch.get_rng_state(), drawn)
    assert all(module.training for module in network.modules())
    assert [parameter.requires_grad for parameter in parameters] == [False] + [True] * (len(parameters) - 1)
    grads = [parameter.grad for parameter in parameters]
    assert grads[1] is not None and bool((grads[1] == 1).all())
    assert all(gradient is None for gradient in [grads[0], *grads[2:]])


@every_norm
@pytest.mark.parametrize("attack", DEFAULT_ATTACKS)
def test_an_example_gets_the_same_radius_in_any_batch(attack: str, name: NormName) -> None:
    network, norm = relu_student(SHAPE, 4), Norm.named(name)
    inputs = make_batch(SHAPE, CPU, examples=6).inputs
    labels = network(inputs).argmax(dim=1)
    in_batch = find(network, inputs, labels, norm, UNIT_RANGE, attacks=(attack,), effort=EASY)
    alone = [
        find(network, x[None], y[None], norm, UNIT_RANGE, attacks=(attack,), effort=EASY, seed=i).radius.item()
        for i, (x, y) in enumerate(zip(inputs, labels, strict=True))
    ]
    assert_rows(in_batch.radius, alone, 1e-9 if attack == "pgd-bisection" else 1e-3)


@pytest.mark.parametrize(
    ("attack", "effort"),
    [
        ("pgd-bisection", Effort(budgets=2)),
        ("pgd-bisection", Effort(pgd_steps=1)),
        ("pgd-bisection", Effort(restarts=0)),
        *[(attack, Effort(steps=2)) for attack in ("fab", "ddn", "fmn", "deepfool")],
    ],
)
def test_effort_and_seed_matter(attack: str, effort: Effort) -> None:
    network, norm = relu_student(SHAPE, 4), Norm.named("l2")
    inputs = make_batch(SHAPE, CPU, examples=16).inputs
    labels = network(inputs).argmax(dim=1)
    full, less = (
        find(network, inputs, labels, norm, UNIT_RANGE, attacks=(attack,), effort=e).radius for e in (Effort(), effort)
    )
    finite = full.isfinite()
    assert not torch.equal(full, less) and float(full[finite].mean()) < float(less[finite].mean())
    if effort.pgd_steps == 1:
        other = find(network, inputs, labels, norm, UNIT_RANGE, attacks=(attack,), effort=effort, seed=99)
        assert not torch.equal(other.radius, less)


def test_an_empty_batch_has_an_empty_answer() -> None:
    nothing, labels = torch.zeros(0, *SHAPE), torch.zeros(0, dtype=torch.int64)
    smallest = find(linear_student(SHAPE, 3, CPU).float(), nothing, labels, Norm.named("l2"), UNIT_RANGE)
    assert smallest.radius.shape == (0,) and smallest.attack == []


def complaint(attack: str, name: NormName = "l2", seeds: int = 2) -> str:
    inputs, labels = torch.zeros(2, 6), torch.zeros(2, dtype=torch.int64)
    return message_of(
        lambda: smallest_decision_change(
            linear_student((6,), 3, CPU).float(),
            inputs,
            labels,
            ThreatModel.named(name, None, UNIT_RANGE, (6,)),
            seeds=range(seeds),
            attacks=(attack,),
        )
    )


@pytest.mark.parametrize("attack", ["ddn", "fmn", "deepfool"])
def test_without_foolbox_the_message_names_the_extra(attack: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "foolbox", None)
    reason = "import of foolbox halted; None in sys.modules"
    assert complaint(attack) == f"attack {attack}: needs foolbox ({reason}); pip install 'robust-student[attacks]'"


def test_the_default_attacks_do_not_need_foolbox(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "foolbox", None)
    network, inputs = linear_student(SHAPE, 3, CPU), make_batch(SHAPE, CPU).inputs
    find(network, inputs, network(inputs).argmax(dim=1), Norm.named("l2"), UNIT_RANGE)


def test_attacks_that_cannot_run_are_refused() -> None:
    assert complaint("pgd") == "attacks: unknown name 'pgd', choose from pgd-bisection, fab, ddn, fmn, deepfool"
    assert complaint("ddn", "linf") == "attacks: 'ddn' serves l2, not linf"
    assert complaint("fab", seeds=3) == "seeds: 3 for 2 examples, one per example is needed"
