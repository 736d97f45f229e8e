"""The ball: least values of linear functions, and its box."""

import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import norm_for, vectors
from zoo_balls import ball_for
from zoo_cases import every_norm, least_over

from robust_student.bounds.ball import Ball
from robust_student.core.norms import Norm, NormName
from robust_student.core.tensors import UNBOUNDED, UNIT_RANGE, InputRange, Shape
from robust_student.core.threat_model import ThreatModel


@every_norm
@pytest.mark.parametrize("scaled", [False, True], ids=["plain", "scaled"])
@pytest.mark.parametrize("limits", [UNIT_RANGE, UNBOUNDED], ids=["in range", "free"])
@settings(max_examples=12)
@given(data=st.data())
def test_least_value_of_a_linear_function_against_an_exact_method(
    norm_name: NormName, scaled: bool, limits: InputRange, device: torch.device, data: st.DataObject
) -> None:
    shape: Shape = (2, 3)
    row = torch.tensor(data.draw(vectors(6)), dtype=torch.float64, device=device).view(1, *shape)
    unit = st.sampled_from([0.0, 1.0, 0.5]) | st.floats(0, 1, allow_subnormal=False)
    points = torch.tensor(data.draw(st.lists(unit, min_size=12, max_size=12)), dtype=torch.float64, device=device)
    radius = torch.tensor(data.draw(st.lists(st.floats(1e-3, 3), min_size=2, max_size=2)), dtype=torch.float64)
    ball = Ball(
        points.view(2, *shape), ThreatModel(norm_for(norm_name, shape, scaled, device), radius.to(device), limits)
    )
    owner = torch.tensor([0, 1], device=device)
    rows = torch.cat([row, -2 * row])
    least, crossed = ball.least(rows, owner), ball.least_of_all(rows)
    for k, x in enumerate(reference.rows(ball.inputs)):
        for j, line in enumerate(reference.rows(rows)):
            true = least_over(line, x, radius[k].item(), ball.norm, limits, shape)
            exact = not limits.bounded or norm_name == "linf"
            tolerance = 1e-7 if norm_name == "l1" else 1e-9  # of the linear programme
            for least_value in [crossed[k, j].item()] + [least[k].item()] * (j == k):
                assert least_value <= true + tolerance
                assert not exact or least_value >= true - tolerance


@every_norm
def test_the_range_counts_where_an_input_sits_at_its_end(norm_name: NormName, device: torch.device) -> None:
    """At x = 0 in [0, 1] a positive coefficient cannot fall, so only the other elements cost anything."""
    inputs = torch.tensor([[0.0, 0.5, 1.0]], dtype=torch.float64, device=device)
    rows = torch.tensor([[1.0, 2.0, -3.0]], dtype=torch.float64, device=device)
    ball = Ball(inputs, ThreatModel(Norm.named(norm_name), 0.25, UNIT_RANGE))
    owner = torch.zeros(1, dtype=torch.int64, device=device)
    assert ball.least(rows, owner).item() == pytest.approx(-2.0 - 0.25 * 2.0)


@every_norm
def test_the_box_is_the_smallest_around_the_ball(norm_name: NormName, device: torch.device) -> None:
    ball = ball_for("mlp", norm_name, True, UNIT_RANGE, device)
    lower, upper = ball.box
    scale = ball.norm.scale
    assert scale is not None
    for k, radius in enumerate(ball.radius.tolist()):
        for i, unit in enumerate(scale.tolist()):
            x = ball.inputs[k, i].item()
            assert lower[k, i].item() == pytest.approx(max(x - radius * unit, 0.0))
            assert upper[k, i].item() == pytest.approx(min(x + radius * unit, 1.0))
