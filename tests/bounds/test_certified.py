"""Certified radii: no attack succeeds inside one, linear networks have exact ones, and how the search finds them."""

import math

import pytest
import torch
from reference import NORMS, norm_for
from torch import Tensor, nn
from zoo import ALL, DEEPER, network_of
from zoo_balls import inputs_of, matrix_of, points_of

from robust_student.bounds.ball import Ball
from robust_student.bounds.certified import SLACK, Certifier
from robust_student.bounds.propagation import METHODS_OF_BOUNDS, Method, margin_bounds
from robust_student.bounds.trace import trace
from robust_student.core.margins import log_odds, margin
from robust_student.core.norms import Norm, NormName
from robust_student.core.tensors import UNBOUNDED, UNIT_RANGE
from robust_student.core.threat_model import ThreatModel
from robust_student.models.registry import NETWORKS, build

SHAPE = (1, 6, 6)


def setup() -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(3)
    network = nn.Sequential(nn.Flatten(), nn.Linear(36, 16), nn.ReLU(), nn.Linear(16, 4)).eval()
    inputs = torch.rand(12, *SHAPE)
    return network, inputs, network(inputs).argmax(dim=1)


def certifier(network: nn.Module, tolerance: float = 0.05) -> Certifier:
    return Certifier.of(
        network, SHAPE, ThreatModel.named("l2", None, UNIT_RANGE, SHAPE), method="linear", tolerance=tolerance
    )


def test_budgets_are_certified_exactly_where_the_bound_holds() -> None:
    network, inputs, labels = setup()
    budgets = (0.2, 0.45, 0.55, 0.65)
    radius = certifier(network).decision_radius(inputs, labels, budgets=budgets)
    layers = trace(network, SHAPE).layers(torch.float64)
    assert int((radius >= budgets[1]).sum()) > 0 and int((radius >= budgets[3]).sum()) < len(labels)
    for budget in budgets:
        ball = Ball(inputs.double(), ThreatModel(Norm.named("l2"), budget, UNIT_RANGE))
        bounds = margin_bounds(layers, ball, labels, "linear")
        holds = ((bounds > 1e-4) | nn.functional.one_hot(labels, 4).bool()).all(dim=1)
        assert torch.equal(radius >= budget, holds)


def test_a_smaller_tolerance_gives_a_radius_that_is_larger_and_closer() -> None:
    network, inputs, labels = setup()
    coarse, fine = (certifier(network, t).decision_radius(inputs, labels) for t in (0.3, 1e-4))
    assert bool((coarse <= fine * (1 + 1e-9)).all()) and bool((coarse >= 0.69 * fine).all())
    assert not torch.equal(coarse, fine)


def test_a_ceiling_is_never_exceeded() -> None:
    network, inputs, labels = setup()
    free = certifier(network).decision_radius(inputs, labels)
    held = certifier(network).decision_radius(inputs, labels, ceiling=free / 2)
    assert bool((held <= free / 2 + 1e-12).all()) and bool((held > 0).all())


def test_an_example_alone_has_the_radius_it_has_in_a_batch() -> None:
    network, inputs, labels = setup()
    in_batch = certifier(network).decision_radius(inputs, labels, budgets=(0.05,))
    alone = [certifier(network).decision_radius(inputs[k, None], labels[k, None], budgets=(0.05,)) for k in range(12)]
    assert torch.allclose(in_batch, torch.cat(alone), rtol=1e-9)


def test_wrong_decisions_have_radius_zero() -> None:
    network, inputs, labels = setup()
    wrong = (labels + 1) % 4
    assert not bool(certifier(network).decision_radius(inputs, wrong).any())


def test_confidence_below_the_teachers_has_radius_zero_and_above_a_positive_one() -> None:
    network, inputs, labels = setup()
    logits = network(inputs).detach()
    shift = torch.where(torch.arange(12) % 2 == 0, 0.2, -0.2)[:, None] * nn.functional.one_hot(labels, 4)
    radius = certifier(network).confidence_radius(inputs, labels, logits + shift)
    below = log_odds(logits, labels) < log_odds(logits + shift, labels)
    assert torch.equal(radius == 0, below) and int(below.sum()) == 6


def test_the_confidence_radius_follows_from_the_margin_bounds() -> None:
    network, inputs, labels = setup()
    teacher = network(inputs).detach() - 0.4 * nn.functional.one_hot(labels, 4)
    radius = certifier(network, 1e-6).confidence_radius(inputs, labels, teacher)
    layers = trace(network, SHAPE).layers(torch.float64)
    bounds = margin_bounds(
        layers, Ball(inputs.double(), ThreatModel(Norm.named("l2"), radius, UNIT_RANGE)), labels, "linear"
    ).detach()
    for k, label in enumerate(labels.tolist()):
        rivals = [bounds[k, j].item() for j in range(4) if j != label]
        certified = 1 / (1 + sum(math.exp(-bound) for bound in rivals))
        teacher_confidence = float(teacher[k].double().softmax(dim=0)[label])
        assert certified >= teacher_confidence and certified == pytest.approx(teacher_confidence, rel=1e-3)


@pytest.mark.parametrize("name", sorted(set(NETWORKS) - DEEPER))
def test_the_slack_is_far_above_the_rounding_of_the_network(name: str) -> None:
    torch.manual_seed(0)
    network = build(name, (1, 12, 12), 10).eval()
    inputs = torch.rand(64, 1, 12, 12)
    with torch.no_grad():
        single, double = network(inputs), trace(network, (1, 12, 12)).layers(torch.float64)(inputs.double())
    difference = (single.double() - double).abs().amax(dim=1)
    slack = SLACK * torch.finfo(torch.float32).eps * double.abs().amax(dim=1)
    assert bool((2 * difference * 5 < slack).all())  # a margin is the difference of two logits


def test_the_orthogonal_networks_certificate_is_a_division() -> None:
    torch.manual_seed(0)
    network = build("lipschitz:8,8", SHAPE, 4).eval()
    inputs = torch.rand(9, *SHAPE)
    labels = network(inputs).argmax(dim=1)
    radii = Certifier.of(
        network, SHAPE, ThreatModel.named("l2", None, UNIT_RANGE, SHAPE), method="lipschitz", tolerance=1e-6
    ).decision_radius(inputs, labels)
    expected = margin(network(inputs), labels).double() / (8 * math.sqrt(2))
    assert bool((radii <= expected + 1e-6).all()) and torch.allclose(radii, expected, rtol=1e-2)


@pytest.mark.parametrize("scaled", [False, True], ids=["plain", "scaled"])
@pytest.mark.parametrize("norm_name", NORMS)
@pytest.mark.parametrize("method", METHODS_OF_BOUNDS)
def test_certified_radii_of_a_linear_network_are_the_distances(
    method: Method, norm_name: NormName, scaled: bool, device: torch.device
) -> None:
    name = "conv, then linear"
    network, inputs, shape = network_of(name, device, torch.float64), inputs_of(name, device), ALL[name].shape
    norm = norm_for(norm_name, shape, scaled, device)
    labels = network(inputs).argmax(dim=1)
    radii = Certifier.of(
        network, shape, ThreatModel.of(norm, None, UNBOUNDED, shape), method=method, tolerance=1e-7
    ).decision_radius(inputs, labels)
    weight = torch.from_numpy(matrix_of(name, device)[0]).to(inputs)
    for x, label, radius in zip(inputs, labels.tolist(), radii.tolist(), strict=True):
        logits = network(x[None])[0].detach()
        rivals = [j for j in range(3) if j != label]
        sizes = norm.dual_size(torch.stack([(weight[label] - weight[j]).view(shape) for j in rivals]))
        distance = float(((logits[label] - logits[rivals]) / sizes).min())
        assert radius <= distance and radius == pytest.approx(distance, rel=1e-6)


ATTACKED = ("mlp", "max pooling, overlapping", "gelu", "residual", "maxout", "built-in lipschitz")


@pytest.mark.parametrize("method", METHODS_OF_BOUNDS)
@pytest.mark.parametrize(("number", "name"), list(enumerate(ATTACKED)))
def test_no_attack_succeeds_inside_a_certified_radius(
    number: int, name: str, method: Method, device: torch.device
) -> None:
    network, inputs, shape = network_of(name, device, torch.float64), inputs_of(name, device), ALL[name].shape
    graph, labels = trace(network, shape), network(inputs).argmax(dim=1)
    teacher = (network(inputs) - 0.3 * nn.functional.one_hot(labels, 3)).detach()  # a little less confident
    teacher_log_odds = log_odds(teacher, labels)
    for norm in (Norm.named(NORMS[(number + k) % 3]) for k in (0, 1)):
        certifier = Certifier(graph, ThreatModel.of(norm, None, UNIT_RANGE, shape), method, tolerance=0.3)
        decision = certifier.decision_radius(inputs, labels)
        confidence = certifier.confidence_radius(inputs, labels, teacher)
        assert bool((decision > 0).all() and (confidence > 0).all()) or method == "lipschitz"
        for radius, meaning in ((decision, "A"), (confidence, "B")):
            ball = Ball(inputs, ThreatModel(norm, radius.clamp_min(1e-12), UNIT_RANGE))
            points = points_of(ball, graph.layers(), count=30)
            with torch.no_grad():
                for k in range(len(inputs)):
                    logits, label = network(points[k]), labels[k].expand(len(points[k]))
                    stands = (
                        margin(logits, label) >= 0 if meaning == "A" else log_odds(logits, label) >= teacher_log_odds[k]
                    )
                    assert bool(stands.all()) or float(radius[k]) == 0
