"""Projections onto ball and range, and steepest directions, against slow oracles."""

import numpy as np
import pytest
import torch
from affine_target import POWERS
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import as_numpy, assert_rows
from scipy.optimize import minimize

from robust_student.core.norms import Norm
from robust_student.core.tensors import UNBOUNDED, UNIT_RANGE
from robust_student.core.threat_model import ThreatModel


@settings(max_examples=40)
@given(st.sampled_from(POWERS), st.integers(0, 10_000), st.floats(0.05, 2.0), st.booleans())
def test_projection_lands_inside_and_leaves_inner_points_alone(
    power: float, seed: int, radius: float, bounded: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    threat = ThreatModel(Norm(power), radius, UNIT_RANGE if bounded else UNBOUNDED)
    centres = torch.rand((5, 3, 2), generator=generator, dtype=torch.float64)
    points = centres + 2 * radius * torch.randn((5, 3, 2), generator=generator, dtype=torch.float64)
    inside = threat.nearest(points, centres)
    assert bool((threat.norm.size(inside - centres) <= radius * (1 + 1e-9)).all())
    assert torch.equal(threat.clip(inside), inside)
    torch.testing.assert_close(threat.nearest(inside, centres), inside, rtol=0, atol=1e-12)


@settings(max_examples=20)
@given(st.sampled_from(POWERS), st.integers(0, 10_000), st.sampled_from([1e-30, 1.0, 1e30]))
def test_direction_has_unit_size_and_is_the_steepest(power: float, seed: int, magnitude: float) -> None:
    gradient = magnitude * torch.randn((4, 3, 2), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    gradient[1] = 0
    threat = ThreatModel(Norm(power), 0.3, UNIT_RANGE)
    direction = threat.norm.direction(gradient)
    assert_rows(threat.norm.size(direction), [1.0, 0.0, 1.0, 1.0])
    slopes = (gradient * direction).flatten(1).sum(dim=1)
    dual = {1.0: np.inf, 2.0: 2, np.inf: 1}[power]
    assert_rows(slopes / magnitude, [np.linalg.norm(g.flatten(), dual) for g in as_numpy(gradient / magnitude)])


@pytest.mark.parametrize("seed", range(8))
def test_projection_onto_the_l1_ball_in_a_box_is_the_nearest_point(seed: int) -> None:
    """Against a general solver: minimise ||z - y||^2 subject to the ball and the box."""
    rng = np.random.default_rng(seed)
    x, y, radius = rng.uniform(size=6), rng.normal(0.5, 0.8, size=6), float(rng.uniform(0.1, 2.0))
    # z = x + p - q with p, q >= 0 makes the constraint linear
    start = np.zeros(12)
    bounds = [(0, 1 - v) for v in x] + [(0, v) for v in x]
    solution = minimize(
        lambda d: float(np.square(x + d[:6] - d[6:] - y).sum()),
        start,
        bounds=bounds,
        constraints={"type": "ineq", "fun": lambda d: radius - d.sum()},
        tol=1e-12,
    )
    oracle = x + solution.x[:6] - solution.x[6:]
    inside = ThreatModel(Norm(1.0), radius, UNIT_RANGE).nearest(torch.tensor(y)[None], torch.tensor(x)[None])
    np.testing.assert_allclose(as_numpy(inside)[0], oracle, atol=2e-5)
