import math
import sys
from collections.abc import Callable

import numpy as np
import pytest
import reference
import torch
from reference import (
    NORMS,
    Array,
    ReferenceNorm,
    Shape,
    affine,
    as_numpy,
    assert_rows,
    assert_state,
    conv_student,
    linear_student,
    make_batch,
    message_of,
    norm_for,
    seeded,
    state_of,
)
from scipy import optimize
from torch import Tensor, nn

from robust_student.attacks.minimum_norm import (
    ATTACKS,
    DEFAULT_ATTACKS,
    Effort,
    Smallest,
    smallest_confidence_loss,
    smallest_decision_change,
)
from robust_student.core.norms import Norm, NormName
from robust_student.core.tensors import UNBOUNDED, UNIT_RANGE, InputRange
from robust_student.core.threat_model import ThreatModel

CPU = torch.device("cpu")
SHAPE: Shape = (1, 2, 3)
every_norm = pytest.mark.parametrize("name", NORMS)
with_and_without_scale = pytest.mark.parametrize("scaled", [False, True], ids=["plain", "scaled"])
EASY = Effort(budgets=10, pgd_steps=5, steps=40)
EVERY_PAIR = [(attack, norm) for attack in ATTACKS for norm in ATTACKS[attack].norms]
every_attack_and_norm = pytest.mark.parametrize(("attack", "name"), EVERY_PAIR)


def relu_student(shape: Shape, classes: int, seed: int = 0) -> nn.Module:
    """A ReLU MLP with kinks enough for the first-order estimate to be wrong."""

    def build() -> nn.Module:
        layers = [nn.Linear(math.prod(shape), 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, classes)]
        return nn.Sequential(nn.Flatten(), *layers)

    network = seeded(build, CPU, seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(2)
    return network


def find(
    network: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    norm: Norm,
    limits: InputRange,
    *,
    attacks: tuple[str, ...] = DEFAULT_ATTACKS,
    effort: Effort | None = None,
    seed: int = 0,
) -> Smallest:
    """The smallest decision change, checked by hand as every returned point must be."""
    seeds = range(seed, seed + len(inputs))
    found = smallest_decision_change(
        network,
        inputs,
        labels,
        ThreatModel.of(norm, None, limits, inputs.shape[1:]),
        seeds=seeds,
        attacks=attacks,
        effort=effort or Effort(),
    )
    with torch.no_grad():
        assert_verified(found, network(found.points).argmax(dim=1) != labels, inputs, norm, limits)
    return found


def assert_verified(found: Smallest, broken: Tensor, inputs: Tensor, norm: Norm, limits: InputRange) -> None:
    """Every finite radius belongs to a broken point of that size in the range; every infinite one to x itself."""
    oracle = ReferenceNorm(norm, tuple(inputs.shape[1:]))
    assert found.points.dtype is inputs.dtype and not found.points.requires_grad
    assert torch.equal(limits.clip(found.points), found.points)
    assert found.radius.isfinite().tolist() == broken.tolist()
    sizes = [oracle.size(row) for row in reference.rows(found.points) - reference.rows(inputs)]
    assert_rows(torch.where(found.radius.isfinite(), found.radius, 0.0), sizes)
    outside = {0.0: "clean", math.inf: "none"}
    for radius, attack in zip(found.radius.tolist(), found.attack, strict=True):
        assert attack == outside.get(radius, attack) and (radius in outside or attack in ATTACKS)


def margins_of(network: nn.Module, points: Tensor, labels: Tensor) -> list[float]:
    with torch.no_grad():
        return [reference.margin(row, y) for row, y in zip(network(points).tolist(), labels.tolist(), strict=True)]


def distances(network: nn.Module, inputs: Tensor, labels: Tensor, norm: Norm) -> Array:
    """min_j m_j / ||w_y - w_j||_q: exact for an affine network without an input range."""
    pairs = zip(inputs, labels.tolist(), strict=True)
    return np.array([reference.decision_radius(network, x, y, norm) for x, y in pairs])


def assert_just_above(found: Smallest, true: Array, tolerance: float) -> None:
    """Never below the true radius, and at most `tolerance` above it."""
    ratio = found.radius.numpy() / true
    assert (ratio >= 1 - 1e-9).all() and (ratio <= 1 + tolerance).all(), ratio


# Closed forms ---------------------------------------------------------------------------------------------------------


@every_norm
@with_and_without_scale
def test_an_affine_network_changes_its_decision_at_the_distance_to_its_nearest_boundary(
    name: NormName, scaled: bool, device: torch.device
) -> None:
    network, norm = linear_student(SHAPE, 4, device), norm_for(name, SHAPE, scaled, device)
    inputs = make_batch(SHAPE, device, classes=4, examples=12, input_range=UNBOUNDED).inputs
    labels = network(inputs).argmax(dim=1)
    found = find(network, inputs, labels, norm, UNBOUNDED)
    assert_just_above(found, distances(network, inputs, labels, norm), 0.001)


@every_attack_and_norm
@with_and_without_scale
def test_each_attack_alone_comes_close_to_the_only_boundary_of_an_affine_network(
    attack: str, name: NormName, scaled: bool
) -> None:
    network, norm = linear_student(SHAPE, 2, CPU), norm_for(name, SHAPE, scaled, CPU)
    inputs = make_batch(SHAPE, CPU, classes=2, examples=12, input_range=UNBOUNDED).inputs
    labels = network(inputs).argmax(dim=1)
    found = find(network, inputs, labels, norm, UNBOUNDED, attacks=(attack,))
    true = distances(network, inputs, labels, norm)
    finite = found.radius.isfinite().numpy()
    # FMN steps exactly onto an affine boundary and may never cross it.
    assert finite.all() or (attack == "fmn" and finite.sum() > 6)
    assert_just_above(found._replace(radius=found.radius[finite]), true[finite], 0.05 if attack == "fmn" else 0.01)


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
    found = find(network, inputs, labels, norm, limits, attacks=(attack,))
    assert_just_above(found, true, 0.01 if attack == "pgd-bisection" else 0.03)


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
    found = smallest_confidence_loss(
        network, inputs, labels, teacher, ThreatModel.of(norm, None, UNBOUNDED, SHAPE), seeds=range(12)
    )
    reached = torch.tensor(margins_of(network, found.points, labels), dtype=torch.float64)
    broken = reached < (odds - lead).cpu()
    assert_verified(found, broken, inputs, norm, UNBOUNDED)
    weight = as_numpy(next(network.parameters()))
    slope = ReferenceNorm(norm, SHAPE).dual_size(weight[0] - weight[1])
    already = as_numpy(lead) < 0
    assert [name == "clean" for name in found.attack] == already.tolist()
    ratio = found.radius.numpy()[~already] / (as_numpy(lead)[~already] / slope)
    assert (ratio >= 1 - 1e-9).all() and (ratio <= 1.001).all()


def test_confidence_is_compared_where_both_probabilities_round_to_one() -> None:
    network = affine(torch.tensor([[60.0], [0.0]]))
    inputs, labels = torch.tensor([[1.0]]), torch.tensor([0])
    teacher = torch.tensor([[45.0, 0.0]])
    assert teacher.softmax(dim=1)[0, 0].item() == network(inputs).softmax(dim=1)[0, 0].item() == 1.0
    found = smallest_confidence_loss(
        network, inputs, labels, teacher, ThreatModel.named("linf", None, UNIT_RANGE, (1,)), seeds=[0]
    )
    assert found.radius.tolist() == pytest.approx([0.25], rel=1e-3) and found.radius.item() > 0.25


# Curved networks against slow searches --------------------------------------------------------------------------------


def dense_smallest(network: nn.Module, x: Tensor, label: int, norm: Norm, limits: InputRange) -> float:
    """The smallest decision change on a grid of the plane that is centred at x."""
    ticks = torch.linspace(-1.0, 1.0, 301, dtype=torch.float64)
    grid = torch.cartesian_prod(ticks, ticks)
    points = x + grid
    inside = ((points >= limits.lower) & (points <= limits.upper)).all(dim=1)
    with torch.no_grad():
        broken = inside & (network(points).argmax(dim=1) != label)
    order = {"l1": 1.0, "l2": 2.0, "linf": math.inf}[norm.name]
    return float(torch.linalg.vector_norm(grid[broken], order, dim=1).min()) if bool(broken.any()) else math.inf


@every_norm
@pytest.mark.parametrize(("restarts", "share"), [(1, 0.9), (10, 1.0)])
def test_points_of_a_dense_grid_hardly_break_a_curved_network_closer_by(
    name: NormName, restarts: int, share: float
) -> None:
    network, norm, limits = relu_student((2,), 4), Norm.named(name), InputRange(-2.0, 2.0)
    inputs = make_batch((2,), CPU, examples=16, input_range=limits).inputs
    labels = network(inputs).argmax(dim=1)
    found = find(network, inputs, labels, norm, limits, effort=Effort(restarts=restarts)).radius
    pairs = zip(inputs, labels.tolist(), strict=True)
    grid = torch.tensor([dense_smallest(network, x, y, norm, limits) for x, y in pairs])
    assert grid.isfinite().all()
    assert (found <= 1.01 * grid).double().mean() >= share and bool((found <= 1.3 * grid).all()), found / grid


@pytest.mark.filterwarnings("ignore:Please import `gaussian_filter`:DeprecationWarning")
def test_the_default_attacks_keep_up_with_a_long_run_of_someone_elses_code() -> None:
    import foolbox

    network = relu_student((1, 5, 5), 6).float().eval()
    inputs = make_batch((1, 5, 5), CPU, examples=20).inputs.float()
    labels = network(inputs).argmax(dim=1)
    model = foolbox.PyTorchModel(network, bounds=(0, 1), device="cpu")
    attack = foolbox.attacks.DDNAttack(steps=1000, init_epsilon=0.3)
    _, points, success = attack(model, inputs, labels, epsilons=None)
    theirs = torch.linalg.vector_norm((points - inputs).flatten(1), dim=1)
    assert bool(success.all())
    ours = find(network, inputs, labels, Norm.named("l2"), UNIT_RANGE).radius
    assert bool((ours <= 1.02 * theirs).all()), ours / theirs


# What the grader promises ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["l2", "linf"])
def test_the_result_is_the_smallest_of_what_each_attack_finds_alone(name: NormName) -> None:
    network, norm = relu_student(SHAPE, 4), Norm.named(name)
    inputs = make_batch(SHAPE, CPU, examples=16).inputs
    labels = network(inputs).argmax(dim=1)
    attacks = tuple(attack for attack in ATTACKS if name in ATTACKS[attack].norms)
    effort = Effort(pgd_steps=2, steps=8)
    together = find(network, inputs, labels, norm, UNIT_RANGE, attacks=attacks, effort=effort)
    alone = {a: find(network, inputs, labels, norm, UNIT_RANGE, attacks=(a,), effort=effort) for a in attacks}
    radii = torch.stack([found.radius for found in alone.values()])
    assert torch.equal(together.radius, radii.amin(dim=0))
    for i, attack in enumerate(together.attack):
        assert attack == "none" or torch.equal(together.points[i], alone[attack].points[i])
    assert len(set(together.attack)) > 1


@every_attack_and_norm
@pytest.mark.parametrize("limits", [UNIT_RANGE, InputRange(-1.0, 2.0), UNBOUNDED], ids=["unit", "wide", "none"])
def test_every_attack_obeys_the_range_and_every_point_is_verified(
    attack: str, name: NormName, limits: InputRange
) -> None:
    network, norm = relu_student((2, 3), 4).float(), norm_for(name, (2, 3), not limits.bounded, CPU)
    batch = make_batch((2, 3), CPU, classes=4, examples=10, input_range=limits)
    inputs = batch.inputs.float()
    found = find(network, inputs, batch.labels, norm, limits, attacks=(attack,), effort=EASY)
    wrong = network(inputs).argmax(dim=1) != batch.labels
    assert [name == "clean" for name in found.attack] == wrong.tolist() and wrong.any() and not wrong.all()
    assert attack in found.attack


class Recorder(nn.Module):
    """Remembers the batches that a network sees."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.gradients = network, list[Tensor]()

    def forward(self, inputs: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            self.gradients.append(inputs.detach().clone())
        return self.network(inputs)


@pytest.mark.parametrize("attack", list(ATTACKS))
def test_examples_that_are_wrong_already_do_not_enter_the_attacks(attack: str) -> None:
    network = Recorder(affine(torch.tensor([[-1.0, 0.0], [1.0, 0.0]])))
    inputs, labels = torch.tensor([[0.3, 0.2], [0.4, 0.9]]), torch.tensor([1, 0])
    found = find(network, inputs - 0.2, labels, Norm.named("l2"), InputRange(-1.0, 1.0), attacks=(attack,))
    assert found.attack == [attack, "clean"] and found.radius[1] == 0
    assert torch.equal(found.points[1], (inputs - 0.2)[1])
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
    found = find(
        build(),
        inputs,
        torch.zeros(2, dtype=torch.int64),
        Norm.named(name),
        limits,
        attacks=(attack,),
        effort=Effort(budgets=6, pgd_steps=2, steps=5),
    )
    assert found.radius.tolist() == [math.inf] * 2 and found.attack == ["none"] * 2
    assert torch.equal(found.points, inputs)


class Blind(nn.Module):
    """Undefined right of `edge`; class 1 right of zero where that comes first."""

    def __init__(self, edge: float, value: float) -> None:
        super().__init__()
        self.edge, self.value = edge, value

    def forward(self, inputs: Tensor) -> Tensor:
        slope = inputs.flatten(1)[:, :1]
        logits = torch.cat([-slope, slope], dim=1)
        return torch.where(slope > self.edge, self.value, logits)


@pytest.mark.parametrize("attack", list(ATTACKS))
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_undefined_logits_prove_nothing(attack: str, value: float) -> None:
    inputs, labels = torch.tensor([[-0.5, 0.0], [-0.9, 0.3]]), torch.tensor([0, 0])
    limits, norm = InputRange(-1.0, 1.0), Norm.named("l2")
    found = find(Blind(0.1, value), inputs, labels, norm, limits, attacks=(attack,))
    for radius, true in zip(found.radius.tolist(), (0.5, 0.9), strict=True):
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
    found = find_raw(Blind(0.1, math.nan), inputs, torch.tensor([0, 0]), "pgd-bisection")
    assert found.attack == ["clean", "pgd-bisection"] and found.radius[0] == 0
    lost = smallest_confidence_loss(
        affine(torch.eye(2)),
        inputs,
        torch.tensor([0, 0]),
        torch.tensor([[math.nan, 0.0], [-9.0, 0.0]]),
        ThreatModel.named("l2", None, InputRange(-1.0, 1.0), (2,)),
        seeds=[0, 1],
    )
    assert lost.attack == ["clean", "none"] and lost.radius.tolist() == [0.0, math.inf]


# What is left as it was, what it depends on ---------------------------------------------------------------------------


@pytest.mark.parametrize("attack", list(ATTACKS))
def test_the_network_and_the_global_generator_stay_as_they_are(attack: str) -> None:
    network = conv_student((2, 4, 4), 3, CPU).train()
    parameters = list(network.parameters())
    parameters[0].requires_grad_(False)
    parameters[1].grad = torch.ones_like(parameters[1])
    batch, state, drawn = make_batch((2, 4, 4), CPU), state_of(network), torch.get_rng_state()
    labels = network.eval()(batch.inputs).argmax(dim=1)
    network.train()
    inputs = batch.inputs.clone().requires_grad_()
    found = smallest_decision_change(
        network, inputs, labels, ThreatModel.named("l2", None, UNIT_RANGE, (2, 4, 4)), seeds=range(6), attacks=(attack,)
    )
    assert attack in found.attack and inputs.grad is None
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
    together = find(network, inputs, labels, norm, UNIT_RANGE, attacks=(attack,), effort=EASY)
    alone = [
        find(network, x[None], y[None], norm, UNIT_RANGE, attacks=(attack,), effort=EASY, seed=i).radius.item()
        for i, (x, y) in enumerate(zip(inputs, labels, strict=True))
    ]
    assert_rows(together.radius, alone, 1e-9 if attack == "pgd-bisection" else 1e-3)


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
    found = find(linear_student(SHAPE, 3, CPU).float(), nothing, labels, Norm.named("l2"), UNIT_RANGE)
    assert found.radius.shape == (0,) and found.attack == []


# Complaints -----------------------------------------------------------------------------------------------------------


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
    assert complaint(attack) == f"attack {attack}: needs foolbox: pip install 'robust-student[attacks]'"


def test_the_default_attacks_do_not_need_foolbox(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "foolbox", None)
    network, inputs = linear_student(SHAPE, 3, CPU), make_batch(SHAPE, CPU).inputs
    find(network, inputs, network(inputs).argmax(dim=1), Norm.named("l2"), UNIT_RANGE)


def test_attacks_that_cannot_run_are_refused() -> None:
    assert complaint("pgd") == "attacks: unknown name 'pgd', choose from pgd-bisection, fab, ddn, fmn, deepfool"
    assert complaint("ddn", "linf") == "attacks: 'ddn' serves l2, not linf"
    assert complaint("fab", seeds=3) == "seeds: 3 for 2 examples, one per example is needed"
