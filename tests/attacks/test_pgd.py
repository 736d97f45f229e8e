import numpy as np
import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import NORMS, affine, as_numpy, linear_student, make_batch, norm_for, smooth_student
from reference_norm import Array, ReferenceNorm
from torch import Tensor, nn

from robust_student.attacks.pgd import Loss, descend, pgd
from robust_student.core.margins import log_odds, margin
from robust_student.core.norms import Norm, NormName
from robust_student.core.tensors import UNBOUNDED, UNIT_RANGE, InputRange, Shape
from robust_student.core.threat_model import ThreatModel

CPU = torch.device("cpu")
SHAPE: Shape = (1, 2, 3)
every_norm = pytest.mark.parametrize("name", NORMS)
with_and_without_scale = pytest.mark.parametrize("scaled", [False, True], ids=["plain", "scaled"])


def margins_of(network: nn.Module, points: Tensor, labels: Tensor) -> list[float]:
    with torch.no_grad():
        return [reference.margin(row, y) for row, y in zip(network(points).tolist(), labels.tolist(), strict=True)]


def distances(network: nn.Module, inputs: Tensor, labels: Tensor, norm: Norm) -> Array:
    """Distance of each input from the nearest boundary of an affine network without an input range."""
    shape = tuple(inputs.shape[1:])
    weight = as_numpy(next(network.parameters()))
    oracle = ReferenceNorm(norm, shape)
    rows = network(inputs).tolist()
    return np.array(
        [
            min((row[y] - row[j]) / oracle.dual_size(weight[y] - weight[j]) for j in reference.rivals(row, y))
            for row, y in zip(rows, labels.tolist(), strict=True)
        ]
    )


def run_pgd(
    network: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    norm: Norm,
    radius: float,
    *,
    start: Tensor | None = None,
    steps: int = 40,
    limits: InputRange = UNBOUNDED,
) -> Tensor:
    begin = inputs if start is None else start
    return pgd(network, inputs, labels, ThreatModel(norm, radius, limits), steps=steps, start=begin).detach()


# Projected gradient descent -------------------------------------------------------------------------------------------


@every_norm
@with_and_without_scale
@pytest.mark.parametrize("random_start", [False, True], ids=["centre", "random"])
def test_pgd_finds_the_worst_point_of_the_ball_of_an_affine_network(
    name: NormName, scaled: bool, random_start: bool
) -> None:
    network, norm = linear_student(SHAPE, 2, CPU), norm_for(name, SHAPE, scaled, CPU)
    inputs = make_batch(SHAPE, CPU, classes=2, examples=8, input_range=UNBOUNDED).inputs
    labels = network(inputs).argmax(dim=1)
    far = distances(network, inputs, labels, norm)
    radius = 0.9 * float(far.min())
    start = inputs + norm.random(inputs, radius, torch.Generator().manual_seed(0)) if random_start else inputs
    points = run_pgd(network, inputs, labels, norm, radius, start=start, steps=200 if random_start else 20)
    clean = np.array(margins_of(network, inputs, labels))
    worst = clean * (1 - radius / far)
    np.testing.assert_allclose(margins_of(network, points, labels), worst, rtol=0.05 if random_start else 1e-9)


@every_norm
def test_pgd_breaks_an_affine_network_exactly_beyond_its_distance(name: NormName) -> None:
    network, norm = linear_student(SHAPE, 2, CPU), Norm.named(name)
    inputs = make_batch(SHAPE, CPU, classes=2, examples=30, input_range=UNBOUNDED).inputs
    labels = network(inputs).argmax(dim=1)
    far = distances(network, inputs, labels, norm)
    radius = float(np.median(far))
    broken = np.array(margins_of(network, run_pgd(network, inputs, labels, norm, radius), labels)) < 0
    assert np.array_equal(broken, far < radius)


RANGES = [UNIT_RANGE, InputRange(-1.0, 0.5), UNBOUNDED]


@settings(max_examples=40)
@given(
    st.sampled_from(NORMS),
    st.booleans(),
    st.sampled_from(RANGES),
    st.floats(0.01, 3.0),
    st.integers(1, 12),
    st.integers(0, 99),
)
def test_pgd_obeys_ball_and_range_and_is_never_worse_than_its_start(
    name: NormName, scaled: bool, limits: InputRange, radius: float, steps: int, seed: int
) -> None:
    network, norm = smooth_student(SHAPE, 3, CPU), norm_for(name, SHAPE, scaled, CPU)
    batch = make_batch(SHAPE, CPU, seed=seed, input_range=limits)
    start = limits.clip(batch.inputs + norm.random(batch.inputs, radius, torch.Generator().manual_seed(seed)))
    points = run_pgd(network, batch.inputs, batch.labels, norm, radius, start=start, steps=steps, limits=limits)
    oracle = ReferenceNorm(norm, SHAPE)
    assert all(oracle.size(row) <= radius * (1 + 1e-9) for row in reference.rows(points - batch.inputs))
    assert torch.equal(limits.clip(points), points)
    reached, began = (margins_of(network, z, batch.labels) for z in (points, start))
    assert all(after <= before for after, before in zip(reached, began, strict=True))


class Recorder(nn.Module):
    """Remembers the batches that a network sees."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.seen = network, list[Tensor]()

    def forward(self, inputs: Tensor) -> Tensor:
        self.seen.append(inputs.detach().clone())
        return self.network(inputs)


def threshold() -> nn.Module:
    """Class 0 left of zero, class 1 right of it."""
    return affine(torch.tensor([[-1.0], [1.0]]))


def test_pgd_stops_moving_examples_that_are_broken() -> None:
    network = Recorder(threshold())
    inputs, labels = torch.tensor([[0.1], [9.0]]), torch.tensor([1, 1])
    points = run_pgd(network, inputs, labels, Norm.named("linf"), 1.0, steps=20)
    sizes = [len(batch) for batch in network.seen]
    # Ten steps on each loss, the first two with both examples; each ends with a look at the last points and the best.
    assert sizes == [2] * 2 + [1] * 8 + [2] * 2 + [1] * 12
    assert points[0] < 0 and points[1] == 8


def test_pgd_returns_the_worst_visited_point_not_the_last_one() -> None:
    class Valley(nn.Module):
        """Class 1 everywhere but in a gap near 0.5; the gradient overshoots it."""

        def forward(self, inputs: Tensor) -> Tensor:
            value = (inputs[:, :1] - 0.5).abs() - 0.01
            return torch.cat([torch.zeros_like(value), value], dim=1)

    network = Recorder(Valley())
    inputs = torch.tensor([[0.0]])
    points = pgd(
        network,
        inputs,
        torch.tensor([1]),
        ThreatModel(Norm.named("linf"), 1.0, UNBOUNDED),
        steps=3,
        relative_step=0.5,
        start=inputs,
    )
    assert [float(z) for z in network.seen] == [0.0, 0.5, 0.5, 0.5] or float(points) == 0.5
    assert margins_of(Valley(), points, torch.tensor([1]))[0] == pytest.approx(-0.01)


class Crowd(nn.Module):
    """Class 0 at 3, `rivals` classes that rise slowly with the second input, and one that overtakes along the first."""

    def __init__(self, rivals: int, level: float, slope: float) -> None:
        super().__init__()
        self.rivals, self.level, self.slope = rivals, level, slope

    def forward(self, inputs: Tensor) -> Tensor:
        x, y = inputs[:, :1], inputs[:, 1:]
        crowd = (2.5 + 0.1 * y).expand(-1, self.rivals)
        return torch.cat([3 + 0 * x, crowd, self.level + self.slope * x], dim=1)


@pytest.mark.parametrize(
    ("network", "guide", "misled"),
    [
        (Crowd(1, 2.0, 2.2), log_odds, margin),  # the margin sees only the nearest class, which can never win
        (Crowd(300, 2.6, 1.0), margin, log_odds),  # many classes that can never win outweigh the one that can
    ],
)
def test_pgd_lowers_the_log_odds_and_the_margin_each_of_which_can_be_misled(
    network: nn.Module, guide: Loss, misled: Loss
) -> None:
    norm, inputs, labels = Norm.named("l2"), torch.zeros(1, 2), torch.tensor([0])

    def reached(loss: Loss) -> float:
        points = descend(
            network,
            lambda logits, at: margin(logits, labels[at]),
            inputs,
            ThreatModel(norm, 0.48, UNIT_RANGE),
            steps=20,
            start=inputs,
            loss=lambda logits, at: loss(logits, labels[at]),
        )
        return margins_of(network, points, labels)[0]

    assert reached(guide) < 0 < reached(misled)
    both = run_pgd(network, inputs, labels, norm, 0.48, limits=UNIT_RANGE)
    assert margins_of(network, both, labels)[0] < 0


def test_pgd_takes_its_start_where_nothing_it_visits_is_worse() -> None:
    flat = affine(torch.zeros(2, 6), torch.tensor([1.0, 0.0]))
    inputs = make_batch(SHAPE, CPU).inputs.float()
    labels = torch.zeros(len(inputs), dtype=torch.int64)
    start = UNIT_RANGE.clip(inputs + 0.05)
    assert torch.equal(run_pgd(flat, inputs, labels, Norm.named("l2"), 1.0, start=start, limits=UNIT_RANGE), start)


@every_norm
def test_pgd_comes_close_to_the_lowest_margin_of_a_dense_grid_on_a_curved_network(name: NormName) -> None:
    network, norm, radius = smooth_student((2,), 3, CPU), Norm.named(name), 0.3
    inputs = make_batch((2,), CPU, examples=10).inputs
    labels = network(inputs).argmax(dim=1)
    ticks = torch.linspace(-radius, radius, 61, dtype=torch.float64)
    grid = torch.cartesian_prod(ticks, ticks)
    ball = grid[[ReferenceNorm(norm, (2,)).size(row) <= radius for row in grid.numpy()]]
    points = run_pgd(network, inputs, labels, norm, radius, steps=50)
    for x, label, reached in zip(inputs, labels, margins_of(network, points, labels), strict=True):
        lowest = min(margins_of(network, x + ball, label.expand(len(ball))))
        assert reached <= max(lowest + 0.02, 0)


@every_norm
def test_pgd_with_a_radius_per_example_does_to_each_what_its_own_radius_does(name: NormName) -> None:
    network, norm = smooth_student(SHAPE, 3, CPU), Norm.named(name)
    batch, radii = make_batch(SHAPE, CPU), torch.linspace(0.05, 0.8, 6, dtype=torch.float64)

    def run(radius: float | Tensor) -> Tensor:
        return pgd(
            network,
            batch.inputs,
            batch.labels,
            ThreatModel(norm, radius, UNIT_RANGE),
            steps=12,
            start=batch.inputs,
        )

    in_batch = run(radii)
    for i, radius in enumerate(radii.tolist()):
        torch.testing.assert_close(in_batch[i], run(radius)[i])


def test_pgd_leaves_no_gradient_in_the_network() -> None:
    network = smooth_student(SHAPE, 3, CPU)
    batch = make_batch(SHAPE, CPU)
    run_pgd(network, batch.inputs, batch.labels, Norm.named("linf"), 0.1)
    assert all(parameter.grad is None for parameter in network.parameters())
