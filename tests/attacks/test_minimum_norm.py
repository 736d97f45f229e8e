"""Attacks of least size against closed forms of affine networks."""

import math

import numpy as np
import pytest
import reference
import torch
from reference import affine, as_numpy, linear_student, make_batch, norm_for
from reference_norm import Array, ReferenceNorm
from scipy import optimize
from smallest_change import (
    CPU,
    SHAPE,
    assert_just_above,
    assert_verified,
    distances,
    every_attack_and_norm,
    every_norm,
    find,
    margins_of,
    with_and_without_scale,
)
from torch import Tensor, nn

from robust_student.attacks.minimum_norm import DEFAULT_ATTACKS, smallest_confidence_loss
from robust_student.core.norms import Norm, NormName
from robust_student.core.tensors import UNBOUNDED, UNIT_RANGE, InputRange
from robust_student.core.threat_model import ThreatModel


@every_norm
@with_and_without_scale
def test_an_affine_network_changes_its_decision_at_the_distance_to_its_nearest_boundary(
    name: NormName, scaled: bool, device: torch.device
) -> None:
    network, norm = linear_student(SHAPE, 4, device), norm_for(name, SHAPE, scaled, device)
    inputs = make_batch(SHAPE, device, classes=4, examples=12, input_range=UNBOUNDED).inputs
    labels = network(inputs).argmax(dim=1)
    smallest = find(network, inputs, labels, norm, UNBOUNDED)
    assert_just_above(smallest, distances(network, inputs, labels, norm), 0.001)


@every_attack_and_norm
@with_and_without_scale
def test_each_attack_alone_comes_close_to_the_only_boundary_of_an_affine_network(
    attack: str, name: NormName, scaled: bool
) -> None:
    network, norm = linear_student(SHAPE, 2, CPU), norm_for(name, SHAPE, scaled, CPU)
    inputs = make_batch(SHAPE, CPU, classes=2, examples=12, input_range=UNBOUNDED).inputs
    labels = network(inputs).argmax(dim=1)
    smallest = find(network, inputs, labels, norm, UNBOUNDED, attacks=(attack,))
    true = distances(network, inputs, labels, norm)
    finite = smallest.radius.isfinite().numpy()
    # FMN steps exactly onto an affine boundary and may never cross it.
    assert finite.all() or (attack == "fmn" and finite.sum() > 6)
    assert_just_above(
        smallest._replace(radius=smallest.radius[finite]), true[finite], 0.05 if attack == "fmn" else 0.01
    )


def smallest_in_range(network: nn.Module, inputs: Tensor, labels: Tensor, norm: Norm, limits: InputRange) -> Array:
    """The radius at which the linear programme over ball and range reaches the boundary of a two-class network."""
    oracle = ReferenceNorm(norm, tuple(inputs.shape[1:]))
    weight, logits = as_numpy(next(network.parameters())), as_numpy(network(inputs))
    radii = []
    for x, row, y in zip(reference.rows(inputs), logits, labels.tolist(), strict=True):
        uphill, lead = weight[1 - y] - weight[y], row[y] - row[1 - y]

        def short(size: float, x: Array = x, uphill: Array = uphill, lead: float = lead) -> float:
            return lead - oracle.best_gain(x, uphill, size, limits)

        most = oracle.size(np.maximum(x - limits.lower, limits.upper - x))
        radii.append(optimize.brentq(short, 0.0, most, xtol=1e-9) if short(most) < 0 else math.inf)
    return np.array(radii)


@pytest.mark.parametrize("name", ["l1", "linf"])
@pytest.mark.parametrize("scaled", [False, True], ids=["plain", "scaled"])
@pytest.mark.parametrize("attack", DEFAULT_ATTACKS)
def test_an_affine_network_in_an_input_range_breaks_where_the_linear_programme_says(
    attack: str, name: NormName, scaled: bool
) -> None:
    norm, limits = norm_for(name, SHAPE, scaled, CPU), InputRange(-1.0, 0.5)
    weight = torch.tensor([[3.0, -1.0, 2.0, 0.5, -1.0, 1.0], [0.0] * 6], dtype=torch.float64)
    network = affine(weight, torch.tensor([1.5, 0.0])).double()
    inputs = make_batch(SHAPE, CPU, examples=20, input_range=limits).inputs
    labels = network(inputs).argmax(dim=1)
    true = smallest_in_range(network, inputs, labels, norm, limits)
    assert (true > 1.05 * distances(network, inputs, labels, norm)).any()  # the range matters
    smallest = find(network, inputs, labels, norm, limits, attacks=(attack,))
    assert_just_above(smallest, true, 0.01 if attack == "pgd-bisection" else 0.03)


@every_norm
@with_and_without_scale
def test_an_affine_network_loses_its_confidence_where_the_log_odds_meet_the_teachers(
    name: NormName, scaled: bool, device: torch.device
) -> None:
    network, norm = linear_student(SHAPE, 2, device), norm_for(name, SHAPE, scaled, device)
    inputs = make_batch(SHAPE, device, classes=2, examples=12, input_range=UNBOUNDED).inputs
    labels = torch.arange(12, device=device) % 2
    lead = torch.linspace(-2.0, 3.0, 12, dtype=torch.float64, device=device)
    odds = torch.tensor(margins_of(network, inputs, labels), dtype=torch.float64, device=device)
    half = (odds - lead) / 2
    signs = 1.0 - 2.0 * labels
    teacher = torch.stack([half * signs, -half * signs], dim=1) + 7.0
    smallest = smallest_confidence_loss(
        network, inputs, labels, teacher, ThreatModel.of(norm, None, UNBOUNDED, SHAPE), seeds=range(12)
    )
    reached = torch.tensor(margins_of(network, smallest.points, labels), dtype=torch.float64)
    broken = reached < (odds - lead).cpu()
    assert_verified(smallest, broken, inputs, norm, UNBOUNDED)
    weight = as_numpy(next(network.parameters()))
    slope = ReferenceNorm(norm, SHAPE).dual_size(weight[0] - weight[1])
    already = as_numpy(lead) < 0
    assert [name == "clean" for name in smallest.attack] == already.tolist()
    ratio = smallest.radius.numpy()[~already] / (as_numpy(lead)[~already] / slope)
    assert (ratio >= 1 - 1e-9).all() and (ratio <= 1.001).all()


def test_confidence_is_compared_where_both_probabilities_round_to_one() -> None:
    network = affine(torch.tensor([[60.0], [0.0]]))
    inputs, labels = torch.tensor([[1.0]]), torch.tensor([0])
    teacher = torch.tensor([[45.0, 0.0]])
    assert teacher.softmax(dim=1)[0, 0].item() == network(inputs).softmax(dim=1)[0, 0].item() == 1.0
    smallest = smallest_confidence_loss(
        network, inputs, labels, teacher, ThreatModel.named("linf", None, UNIT_RANGE, (1,)), seeds=[0]
    )
    assert smallest.radius.tolist() == pytest.approx([0.25], rel=1e-3) and smallest.radius.item() > 0.25
