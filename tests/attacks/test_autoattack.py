"""AutoAttack of our own against closed forms and the published implementation."""

from functools import cache

import numpy as np
import pytest
import torch
from affine_target import ATTACKS, CPU, PARTS, Target, every_norm, propose
from reference import affine, norm_for, prototype_classifier, toy_data
from torch import Tensor, nn

from robust_student.attacks.autoattack import AutoAttack, Tier
from robust_student.core.norms import Norm, NormName
from robust_student.core.tensors import UNBOUNDED, UNIT_RANGE, InputRange, Shape, answers
from robust_student.core.threat_model import ThreatModel


@pytest.mark.parametrize(
    ("tier", "classes", "attacks", "suite"),
    [
        ("standard", 10, ["apgd-ce", "apgd-t", "fab-t", "square"], "standard"),
        ("standard", 4, ["apgd-ce", "apgd-t", "fab-t", "square"], "standard"),
        ("fast", 10, ["apgd-ce", "apgd-t", "square"], "fast"),
        ("standard", 3, ["apgd-ce", "apgd-margin", "fab-t", "square"], "standard-few-classes"),
        ("fast", 2, ["apgd-ce", "apgd-margin", "square"], "fast-few-classes"),
        ("screening", 4, ["apgd-ce", "apgd-t"], "screening"),
        ("screening", 3, ["apgd-ce", "apgd-margin"], "screening-few-classes"),
    ],
)
def test_a_suite_is_named_after_the_attacks_it_runs(tier: Tier, classes: int, attacks: list[str], suite: str) -> None:
    suite_of_attacks = AutoAttack(tier)
    assert [attack.name for attack in suite_of_attacks.attacks(classes)] == attacks and suite_of_attacks.suite(
        classes
    ) == suite


@every_norm
@pytest.mark.parametrize(
    ("shape", "limits", "scaled"),
    [((1, 3, 4), UNIT_RANGE, False), ((1, 3, 4), InputRange(-1.0, 1.0), False), ((12,), UNBOUNDED, True)],
    ids=["unit", "minus one to one", "table with scale"],
)
@pytest.mark.parametrize(("classes", "attack"), [(5, "apgd-t"), (3, "fab-t"), (2, "apgd-ce"), (3, "apgd-margin")])
def test_white_box_attacks_break_an_affine_network_exactly_beyond_its_distance(
    name: NormName, shape: Shape, limits: InputRange, scaled: bool, classes: int, attack: str
) -> None:
    norm = norm_for(name, shape, scaled, CPU)
    target = Target(shape, classes, limits, norm)
    radius = float(np.median(target.distances))
    broken = target.broken(ThreatModel(norm, radius, limits), [attack])
    assert not broken[target.distances > radius].any()
    within = broken[target.distances < 0.95 * radius]
    if name == "l1":  # the range is in the way, and APGD-L1 misses even affine boundaries (the published one as well)
        assert within.all() if attack == "fab-t" and not limits.bounded else within.mean() >= 0.2
    else:
        assert within.all()


@every_norm
@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("shape", [(9,), (1, 4, 4), (2, 3), (3, 7, 5)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_every_attack_takes_inputs_of_any_shape_and_type_and_obeys_ball_and_range(
    name: NormName, attack: str, shape: Shape, dtype: torch.dtype
) -> None:
    limits = UNBOUNDED if len(shape) == 1 else InputRange(-1.0, 2.0)
    norm = norm_for(name, shape, len(shape) == 1, CPU)
    target = Target(shape, 4, limits, norm, examples=4, dtype=dtype)
    radius = 2 * float(target.distances.max())
    broken = target.broken(ThreatModel(norm, radius, limits), [attack])
    assert broken.any() or (name == "l1" and attack.startswith("apgd"))  # weak in L1, as the published one is


def test_the_targeted_attack_covers_ten_classes() -> None:
    norm = Norm.named("linf")
    target = Target((1, 6, 6), 10, UNIT_RANGE, norm)
    radius = float(np.median(target.distances))
    broken = target.broken(ThreatModel(norm, radius, UNIT_RANGE), ["apgd-t"])
    clear = abs(target.distances / radius - 1) > 0.03
    assert np.array_equal(broken[clear], (target.distances < radius)[clear])


class Rounded(nn.Module):
    """A network whose input is rounded to twentieths: no gradient at all."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, inputs: Tensor) -> Tensor:
        return self.network((20 * inputs).round() / 20)


@every_norm
def test_square_finds_what_a_masked_gradient_hides(name: NormName) -> None:
    norm = Norm.named(name)
    target = Target((1, 4, 4), 3, UNIT_RANGE, norm, examples=8)
    radius = 3 * float(target.distances.max())
    target.network = Rounded(target.network)
    target.labels = target.network(target.inputs).argmax(dim=1)
    assert target.broken(ThreatModel(norm, radius, UNIT_RANGE), ["square"]).mean() > 0.7


def test_a_single_example_without_variation_can_be_attacked_without_a_range() -> None:
    norm = Norm.named("linf", torch.tensor([2.0]))
    network = affine(torch.tensor([[-1.0], [1.0]]))
    points = propose("apgd-ce", network, torch.tensor([[1.0]]), torch.tensor([1]), ThreatModel(norm, 0.6, UNBOUNDED))
    assert float(points) == pytest.approx(-0.2, abs=1e-6)


@cache
def trained() -> tuple[nn.Module, Tensor, Tensor]:
    """A small network on noisy prototypes, with the test examples that it gets right."""
    data = toy_data(shape=(1, 8, 8), classes=5, test=120, noise=0.2)
    affine_part = prototype_classifier(data)
    torch_state = torch.get_rng_state()
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 5))
    torch.set_rng_state(torch_state)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    inputs, labels = data.training_examples.floats(), data.training_examples.labels
    for _ in range(150):
        optimizer.zero_grad()
        (nn.functional.cross_entropy(network(inputs), labels) + 0 * affine_part(inputs).sum()).backward()
        optimizer.step()
    network.eval().requires_grad_(False)
    tested, truth = data.test.floats(), data.test.labels
    right = network(tested).argmax(dim=1) == truth
    return network, tested[right], truth[right]


@pytest.mark.parametrize(("name", "radius"), [("linf", 0.17), ("l2", 1.1), ("l1", 4.5)])
def test_verdicts_agree_with_the_published_implementation(name: NormName, radius: float) -> None:
    from pyautoattack import AutoAttack as Published

    network, inputs, labels = trained()
    threat = ThreatModel(Norm.named(name), radius, UNIT_RANGE)
    standing = torch.ones(len(labels), dtype=torch.bool)
    for attack in ("apgd-ce", "apgd-t", "fab-t"):
        left = standing.nonzero()[:, 0]
        points = PARTS[attack].propose(network, inputs[left], labels[left], threat, left.tolist())
        standing[left] = network(points).argmax(dim=1) == labels[left]
    with torch.random.fork_rng():
        engine = Published(network, norm={"linf": "Linf", "l2": "L2", "l1": "L1"}[name], eps=radius, seed=0)
        engine.attacks_to_run = ["apgd-ce", "apgd-t", "fab-t"]
        engine.apgd_targeted.n_target_classes = engine.fab.n_target_classes = 4
        adversarial, _ = engine.run_standard_evaluation(inputs, labels)
    theirs = network(adversarial).argmax(dim=1) == labels
    assert 0.15 < theirs.double().mean() < 0.85
    assert int((standing != theirs).sum()) <= 1


class Fragile(nn.Module):
    """Class 0, which argmax takes NaN for; NaN where the input is bright, and a slope up to there."""

    def forward(self, inputs: Tensor) -> Tensor:
        brightness = inputs.flatten(1).mean(dim=1)
        logits = torch.stack([1 - brightness, *(brightness - k for k in range(1, 5))], dim=1)
        return logits.masked_fill(brightness[:, None] > 0.53, float("nan"))


@pytest.mark.parametrize("attack", ["apgd-ce", "apgd-t", "square"])
def test_a_point_without_an_answer_breaks_the_example(attack: str) -> None:
    inputs, labels = torch.full((4, 1, 4, 4), 0.5), torch.zeros(4, dtype=torch.long)
    points = propose(attack, Fragile(), inputs, labels, ThreatModel(Norm.named("linf"), 0.1, UNIT_RANGE))
    assert (answers(Fragile()(points)) == -1).all()
