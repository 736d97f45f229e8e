"""Attacks of least size on curved networks against slow searches."""

import math

import pytest
import torch
from reference import make_batch
from smallest_change import CPU, every_norm, find, relu_student
from torch import Tensor, nn

from robust_student.attacks.minimum_norm import Effort
from robust_student.core.norms import Norm, NormName
from robust_student.core.tensors import UNIT_RANGE, InputRange


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
    radius = find(network, inputs, labels, norm, limits, effort=Effort(restarts=restarts)).radius
    pairs = zip(inputs, labels.tolist(), strict=True)
    grid = torch.tensor([dense_smallest(network, x, y, norm, limits) for x, y in pairs])
    assert grid.isfinite().all()
    assert (radius <= 1.01 * grid).double().mean() >= share and bool((radius <= 1.3 * grid).all()), radius / grid


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
