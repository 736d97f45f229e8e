"""No point of a ball violates a bound."""

import pytest
import torch
import zoo
from torch import Tensor
from zoo_balls import ball_for, layers_of, points_of
from zoo_cases import CORE, every_case, every_method, every_norm, margins_at, one_norm_each, slack_of

from robust_student.bounds.ball import Ball
from robust_student.bounds.layers import Layers
from robust_student.bounds.propagation import (
    METHODS_OF_BOUNDS,
    Method,
    bound_steps,
    margin_bounds,
    margin_slopes,
)
from robust_student.core.margins import margins
from robust_student.core.norms import NormName
from robust_student.core.tensors import UNBOUNDED, UNIT_RANGE, InputRange


@every_case
def test_no_point_of_the_ball_is_below_any_bound(
    name: str, norm_name: NormName, scaled: bool, limits: InputRange, device: torch.device
) -> None:
    layers = layers_of(name, device)
    ball, labels = ball_for(name, norm_name, scaled, limits, device), torch.tensor([0, 1, 2], device=device)
    points = points_of(ball, layers)
    with torch.no_grad():
        logits = torch.stack([layers(group) for group in points])
        pairs = zip(logits, labels, strict=True)
        lowest = torch.stack([margins(row, label.expand(len(row))) for row, label in pairs]).amin(dim=1)
        for method in METHODS_OF_BOUNDS:
            bounds = margin_bounds(layers, ball, labels, method)
            assert bounds.shape == (3, zoo.CLASSES)
            assert bounds[torch.arange(3), labels].abs().max() <= 1e-12
            assert (lowest - bounds).min().item() >= -slack_of(logits), method


def values_of(layers: Layers, inputs: Tensor) -> list[Tensor]:
    """The input and what every step gives."""
    values = [inputs]
    for step in layers.steps:
        values.append(step.operation.apply(*(values[k] for k in step.parents)))
    return values


@every_case
@torch.no_grad()
def test_every_step_stays_in_its_interval(
    name: str, norm_name: NormName, scaled: bool, limits: InputRange, device: torch.device
) -> None:
    layers = layers_of(name, device)
    ball = ball_for(name, norm_name, scaled, limits, device)
    seen = [values_of(layers, group) for group in points_of(ball, count=30, seed=1)]
    both = [bound_steps(layers, ball, linear=linear) for linear in (False, True)]
    for intervals in both:
        assert len(intervals) == len(layers.steps) + 1
        for number, (lower, upper) in enumerate(intervals):
            for example, values in enumerate(seen):
                value, tolerance = values[number], slack_of(values[number])
                assert (value >= lower[example] - tolerance).all() and (value <= upper[example] + tolerance).all()
    for (lower, upper), (low, high) in zip(*both, strict=True):
        assert (low >= lower - 1e-12).all() and (high <= upper + 1e-12).all()  # linear bounds only tighten


@every_case
def test_no_gradient_in_the_ball_is_larger_than_the_slopes(
    name: str, norm_name: NormName, scaled: bool, limits: InputRange, device: torch.device
) -> None:
    layers = layers_of(name, device)
    ball = ball_for(name, norm_name, scaled, limits, device)
    labels = torch.tensor([1, 2, 0], device=device)
    groups = points_of(ball, count=25, seed=2)
    steepest = []
    for group, label in zip(groups, labels, strict=True):
        points = group.detach().requires_grad_()
        reached = margins(layers(points), label.expand(len(points)))
        slopes = [
            ball.norm.dual_size(torch.autograd.grad(reached[:, j].sum(), points, retain_graph=True)[0]).max()
            for j in range(zoo.CLASSES)
        ]
        steepest.append(torch.stack(slopes))
    with torch.no_grad():
        for method in ("gradient", "lipschitz"):
            bounds = margin_slopes(layers, ball, labels, method)
            assert (bounds >= torch.stack(steepest) * (1 - 1e-9) - 1e-12).all(), method


@one_norm_each
@torch.no_grad()
def test_a_ball_of_radius_zero_is_its_centre(name: str, norm_name: NormName, device: torch.device) -> None:
    layers, labels = layers_of(name, device), torch.tensor([0, 1, 2], device=device)
    ball = ball_for(name, norm_name, True, UNIT_RANGE, device, share=0.0)
    for method in METHODS_OF_BOUNDS:
        bounds = margin_bounds(layers, ball, labels, method)
        torch.testing.assert_close(bounds, margins_at(layers, ball, labels), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", CORE)
@every_norm
@every_method
@torch.no_grad()
def test_bounds_of_an_example_do_not_depend_on_the_others(
    name: str, norm_name: NormName, method: Method, device: torch.device
) -> None:
    layers, labels = layers_of(name, device), torch.tensor([0, 1, 2], device=device)
    ball = ball_for(name, norm_name, True, UNIT_RANGE, device)
    in_batch = margin_bounds(layers, ball, labels, method)
    for k in range(3):
        alone = Ball(ball.inputs[k : k + 1], ball.threat.among(torch.tensor([k], device=device)))
        torch.testing.assert_close(
            margin_bounds(layers, alone, labels[k : k + 1], method), in_batch[k : k + 1], rtol=1e-9, atol=1e-9
        )


@one_norm_each
@torch.no_grad()
def test_bounds_fall_as_the_ball_grows_and_shrink_with_the_range(
    name: str, norm_name: NormName, device: torch.device
) -> None:
    layers, labels = layers_of(name, device), torch.tensor([0, 1, 2], device=device)
    for method in METHODS_OF_BOUNDS:
        if method == "linear":  # its bounds may jump where a relaxation changes
            continue
        free = [ball_for(name, norm_name, True, UNBOUNDED, device, share) for share in (0.1, 1.0)]
        bounds = [margin_bounds(layers, ball, labels, method) for ball in free]
        assert (bounds[0] >= bounds[1] - 1e-9).all()
        cut = margin_bounds(layers, ball_for(name, norm_name, True, UNIT_RANGE, device), labels, method)
        assert (cut >= bounds[1] - 1e-9).all()
