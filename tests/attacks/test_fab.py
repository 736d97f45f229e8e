"""FAB: steps to a hyperplane, and the nearest point of an affine network."""

import math

import numpy as np
import pytest
import torch
from affine_target import CPU, every_power
from reference import as_numpy, linear_student
from reference_norm import Array
from scipy.optimize import linprog, minimize

from robust_student.attacks.fab import fab, to_hyperplane
from robust_student.core.norms import Norm
from robust_student.core.tensors import UNBOUNDED, UNIT_RANGE
from robust_student.core.threat_model import ThreatModel


def hyperplane_oracle(power: float, point: Array, slope: Array, value: float) -> float:
    """Least ||d|| with value + <slope, d> = 0 and 0 <= point + d <= 1; infinite where there is none."""
    size = len(point)
    if power == 2:
        solution = minimize(
            lambda d: float(np.square(d).sum()),
            np.zeros(size),
            bounds=[(-v, 1 - v) for v in point],
            constraints={"type": "eq", "fun": lambda d: value + slope @ d},
            tol=1e-14,
        )
        return math.sqrt(solution.fun) if solution.success else math.inf
    # d = p - q; L1: minimise sum p + q; Linf: minimise t >= p_i + q_i
    cost = np.concatenate([np.ones(2 * size), [0.0]]) if power == 1 else np.concatenate([np.zeros(2 * size), [1.0]])
    limit = np.hstack([np.eye(size), np.eye(size), -np.ones((size, 1))])
    solution = linprog(
        cost,
        A_ub=None if power == 1 else limit,
        b_ub=None if power == 1 else np.zeros(size),
        A_eq=np.concatenate([slope, -slope, [0.0]])[None],
        b_eq=[-value],
        bounds=[(0, 1 - v) for v in point] + [(0, v) for v in point] + [(0, None)],
    )
    return float(solution.fun) if solution.success else math.inf


@every_power
@pytest.mark.parametrize("seed", range(12))
def test_the_step_to_a_hyperplane_is_the_shortest_in_the_box(power: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    point, slope = rng.uniform(size=7), rng.normal(size=7) * rng.integers(0, 2, size=7)
    value = float(rng.normal() * (0.3 if seed % 3 else 3.0))
    threat = ThreatModel(Norm(power), 0.0, UNIT_RANGE)
    step = to_hyperplane(
        torch.tensor(point)[None], torch.tensor(slope)[None], torch.tensor([value], dtype=torch.float64), threat
    )
    moved = as_numpy(step)[0]
    assert np.all(point + moved >= -1e-12) and np.all(point + moved <= 1 + 1e-12)
    reached = value + slope @ moved
    most = np.abs(slope) @ np.where(slope * value > 0, point, 1 - point)  # how far <slope, d> can go against the value
    if most < abs(value):
        assert abs(reached) == pytest.approx(abs(value) - most, abs=1e-9)  # as near as the box allows
    else:
        assert reached == pytest.approx(0, abs=1e-9)
        assert float(threat.norm.size(step)) <= hyperplane_oracle(power, point, slope, value) + 1e-5


@every_power
def test_without_a_range_the_step_to_a_hyperplane_has_its_closed_form(power: float) -> None:
    generator = torch.Generator().manual_seed(0)
    points, slope = (torch.randn((5, 2, 3), generator=generator, dtype=torch.float64) for _ in range(2))
    value = torch.randn(5, generator=generator, dtype=torch.float64)
    norm = Norm(power)
    step = to_hyperplane(points, slope, value, ThreatModel(Norm(power), 0.0, UNBOUNDED))
    torch.testing.assert_close(norm.size(step), value.abs() / norm.dual_size(slope))
    torch.testing.assert_close(value + (slope * step).flatten(1).sum(dim=1), torch.zeros_like(value))


@every_power
def test_fab_finds_the_nearest_point_of_an_affine_network(power: float) -> None:
    norm = Norm(power)
    network = linear_student((2, 3), 4, CPU)
    inputs = torch.randn((6, 2, 3), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    logits = network(inputs)
    labels, targets = logits.argmax(dim=1), logits.topk(2, dim=1).indices[:, 1]
    points = fab(network, inputs, labels, targets, ThreatModel(Norm(power), 0.0, UNBOUNDED))
    weight = next(network.parameters())
    lead = (logits.gather(1, labels[:, None]) - logits.gather(1, targets[:, None]))[:, 0]
    least = lead / norm.dual_size((weight[labels] - weight[targets]).view(-1, 2, 3))
    assert bool((network(points).argmax(dim=1) != labels).all())
    torch.testing.assert_close(norm.size(points - inputs), least, rtol=0.06, atol=0)  # at most 5 % over-shot
