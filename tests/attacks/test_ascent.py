import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from plain_objective import plain_ascent
from reference import NORMS, Setup, assert_rows, linear_student, make_batch, norm_for, rows, smooth_student
from reference_norm import ReferenceNorm
from torch import Tensor, nn

from robust_student.attacks.ascent import ascend, default_step
from robust_student.core.norms import Norm, NormName
from robust_student.core.tensors import UNBOUNDED, UNIT_RANGE, InputRange
from robust_student.core.threat_model import ThreatModel

every_norm = pytest.mark.parametrize("name", NORMS)
with_and_without_scale = pytest.mark.parametrize("scaled", [False, True], ids=["plain", "scaled"])
RANGES = (UNIT_RANGE, InputRange(-1.0, 2.0), InputRange(0.0, math.inf), UNBOUNDED)
SHAPE = (2, 3)
CPU = torch.device("cpu")


def lead(logits: Tensor) -> Tensor:
    """A value per example to climb: class 0 against class 1, with some curvature."""
    return logits[:, 0] - logits[:, 1] + 0.1 * logits[:, 2].square()


def first_logit(_: Tensor, logits: Tensor) -> Tensor:
    return logits[:, 0]


def climb(
    network: nn.Module, inputs: Tensor, start: Tensor, setup: Setup, steps: int, step_size: float, **options: Any
) -> Tensor:
    """Ascend on `lead`."""
    return ascend(
        network,
        lambda _, logits: lead(logits),
        inputs,
        start,
        setup.threat,
        steps=steps,
        step_size=step_size,
        **options,
    )


@given(
    st.sampled_from(NORMS),
    st.booleans(),
    st.sampled_from(RANGES),
    st.floats(0.01, 3.0),
    st.floats(0.01, 3.0),
    st.integers(0, 3),
    st.booleans(),
)
def test_every_point_reached_obeys_the_ball_and_the_range(
    name: NormName, scaled: bool, limits: InputRange, radius: float, step: float, steps: int, random: bool
) -> None:
    network, norm = smooth_student(SHAPE, 3, CPU), norm_for(name, SHAPE, scaled, CPU)
    inputs = make_batch(SHAPE, CPU).inputs
    generator = torch.Generator().manual_seed(0)
    start = ThreatModel(norm, radius, limits).random(inputs, generator) if random else inputs
    reached = climb(network, inputs, start, Setup(norm, limits, radius), steps, step * radius)
    for points in (start, reached):
        assert norm.size(points - inputs).max().item() <= radius * (1 + 1e-9)
        assert limits.lower <= points.min().item() and points.max().item() <= limits.upper


@every_norm
@with_and_without_scale
@pytest.mark.parametrize("limits", RANGES, ids=str)
def test_ascent_takes_the_path_of_the_oracle(
    name: NormName, scaled: bool, limits: InputRange, device: torch.device, generator: torch.Generator
) -> None:
    network, inputs = smooth_student(SHAPE, 3, device), make_batch(SHAPE, device).inputs
    setup = Setup(norm_for(name, SHAPE, scaled, device), limits, 0.4)
    start = setup.threat.random(inputs, generator)
    expected = plain_ascent(network, [lead] * 3, inputs, start, setup, 0.2)
    torch.testing.assert_close(climb(network, inputs, start, setup, 3, 0.2), expected)


@every_norm
def test_what_is_raised_may_depend_on_the_point_itself(name: NormName, device: torch.device) -> None:
    network, inputs = smooth_student(SHAPE, 3, device), make_batch(SHAPE, device).inputs
    setup, other = Setup(Norm.named(name), UNIT_RANGE, 0.4), smooth_student(SHAPE, 4, device)

    def gap(points: Tensor, logits: Tensor) -> Tensor:
        return lead(logits) - 30 * other(points)[:, 3].square()

    def both(points: Tensor) -> Tensor:
        return torch.stack([gap(points, network(points))], dim=1)

    expected = plain_ascent(both, [lambda values: values[:, 0]] * 3, inputs, inputs, setup, 0.2)
    reached = ascend(network, gap, inputs, inputs, setup.threat, steps=3, step_size=0.2)
    torch.testing.assert_close(reached, expected)
    assert not torch.equal(reached, climb(network, inputs, inputs, setup, 3, 0.2))


@every_norm
@with_and_without_scale
def test_one_step_of_the_radius_reaches_the_maximum_of_an_affine_function(
    name: NormName, scaled: bool, device: torch.device
) -> None:
    network, norm = linear_student(SHAPE, 3, device), norm_for(name, SHAPE, scaled, device)
    inputs, weight = make_batch(SHAPE, device).inputs, next(network.parameters())[0].detach()
    reached = ascend(network, first_logit, inputs, inputs, ThreatModel(norm, 0.3, UNBOUNDED), steps=1, step_size=0.3)
    highest = 0.3 * ReferenceNorm(norm, SHAPE).dual_size(weight.cpu().numpy())
    assert_rows((network(reached) - network(inputs))[:, 0], [highest] * len(inputs))


@pytest.mark.parametrize("name", ["l1", "linf"])
@with_and_without_scale
def test_one_step_from_the_input_is_the_linear_programmes_optimum_inside_the_range(
    name: NormName, scaled: bool, device: torch.device
) -> None:
    network, norm = linear_student(SHAPE, 3, device), norm_for(name, SHAPE, scaled, device)
    inputs, weight = make_batch(SHAPE, device).inputs, next(network.parameters())[0].detach().cpu().numpy()
    inputs[0], inputs[1, 0] = 0.0, 1.0
    reached = ascend(network, first_logit, inputs, inputs, ThreatModel(norm, 0.8, UNIT_RANGE), steps=1, step_size=0.8)
    oracle = ReferenceNorm(norm, SHAPE)
    expected = [oracle.best_gain(x, weight, 0.8, UNIT_RANGE) for x in rows(inputs)]
    assert_rows((network(reached) - network(inputs))[:, 0], expected, tolerance=1e-7)


@every_norm
@pytest.mark.parametrize("steps", [1, 3])
def test_a_first_gradient_that_is_known_gives_the_identical_result(
    name: NormName, steps: int, device: torch.device
) -> None:
    network, inputs = smooth_student(SHAPE, 3, device), make_batch(SHAPE, device).inputs
    setup = Setup(norm_for(name, SHAPE, False, device), UNIT_RANGE, 0.3)
    points = inputs.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(lead(network(points)).sum(), points)
    result = climb(network, inputs, inputs, setup, steps, 0.2, first_gradient=gradient)
    assert torch.equal(result, climb(network, inputs, inputs, setup, steps, 0.2))


@pytest.mark.parametrize(("has_gradient", "passes"), [(False, 3), (True, 2)])
def test_each_step_costs_one_pass_except_where_its_gradient_is_known(
    has_gradient: bool, passes: int, device: torch.device
) -> None:
    network, inputs = smooth_student(SHAPE, 3, device), make_batch(SHAPE, device).inputs
    calls: list[int] = []
    network.register_forward_hook(lambda *_: calls.append(1))
    setup = Setup(norm_for("linf", SHAPE, False, device), UNIT_RANGE, 0.3)
    first = {"first_gradient": torch.ones_like(inputs)} if has_gradient else {}
    climb(network, inputs, inputs, setup, 3, 0.1, **first)
    assert len(calls) == passes


def test_a_watcher_sees_every_point_but_the_last_with_its_logits(device: torch.device) -> None:
    network, inputs = smooth_student(SHAPE, 3, device), make_batch(SHAPE, device).inputs
    setup = Setup(norm_for("l2", SHAPE, False, device), UNIT_RANGE, 0.3)
    seen: list[tuple[Tensor, Tensor]] = []
    climb(network, inputs, inputs, setup, 3, 0.1, watch=lambda points, logits: seen.append((points, logits)))
    for steps, (points, logits) in enumerate(seen):
        torch.testing.assert_close(points, climb(network, inputs, inputs, setup, steps, 0.1))
        torch.testing.assert_close(logits, network(points).detach())
    assert len(seen) == 3


@every_norm
def test_points_stay_put_where_the_function_is_flat(name: NormName, device: torch.device) -> None:
    network, inputs = linear_student(SHAPE, 3, device), make_batch(SHAPE, device).inputs
    with torch.no_grad():
        next(network.parameters()).zero_()
    setup = Setup(norm_for(name, SHAPE, False, device), UNIT_RANGE, 0.3)
    assert torch.equal(climb(network, inputs, inputs, setup, 2, 0.1), inputs)


def test_ascent_works_without_gradients_enabled_and_touches_neither_start_nor_parameters(
    device: torch.device,
) -> None:
    network, inputs = smooth_student(SHAPE, 3, device), make_batch(SHAPE, device).inputs
    setup, before = Setup(norm_for("l2", SHAPE, False, device), UNIT_RANGE, 0.3), inputs.clone()
    with torch.no_grad():
        quiet = climb(network, inputs, inputs, setup, 2, 0.1)
    reached = climb(network, inputs, inputs, setup, 2, 0.1)
    assert torch.equal(quiet, reached)
    assert torch.equal(inputs, before) and not inputs.requires_grad and not reached.requires_grad
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize(("steps", "size"), [(1, 1.25), (2, 0.75), (3, 0.5), (6, 0.25), (7, 0.25), (100, 0.25)])
def test_default_step_crosses_the_ball(steps: int, size: float) -> None:
    assert default_step(steps) == size
