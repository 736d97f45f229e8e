import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from random_tensors import CPU, inner, normal, pair, tensor
from reference import NORMS, assert_rows, norm_for, rows, vectors
from reference_norm import ReferenceNorm
from scipy import stats
from torch import Tensor

from robust_student.core.errors import UserError
from robust_student.core.norms import Norm, NormName
from robust_student.core.tensors import Shape

every_norm = pytest.mark.parametrize("name", NORMS)
with_and_without_scale = pytest.mark.parametrize("scaled", [False, True], ids=["plain", "scaled"])
every_shape = pytest.mark.parametrize("shape", [(1,), (5,), (2, 3), (2, 3, 2)], ids=str)
names = st.sampled_from(NORMS)


@every_norm
@with_and_without_scale
@every_shape
def test_size_is_the_norm_of_the_perturbation_in_scale_units(
    name: NormName, scaled: bool, shape: Shape, device: torch.device
) -> None:
    norm, values = norm_for(name, shape, scaled, device), normal(shape, device)
    assert_rows(norm.size(values), [ReferenceNorm(norm, shape).size(row) for row in rows(values)])


@every_norm
@with_and_without_scale
@every_shape
def test_dual_size_is_the_dual_norm_of_the_gradient(
    name: NormName, scaled: bool, shape: Shape, device: torch.device
) -> None:
    norm, values = norm_for(name, shape, scaled, device), normal(shape, device)
    assert_rows(norm.dual_size(values), [ReferenceNorm(norm, shape).dual_size(row) for row in rows(values)])


@every_norm
def test_a_scale_per_channel_broadcasts_over_the_pixels(name: NormName, device: torch.device) -> None:
    channels = torch.tensor([0.5, 2.0], dtype=torch.float64, device=device).view(2, 1, 1)
    full = channels.expand(2, 3, 3).contiguous()
    values = normal((2, 3, 3), device)
    torch.testing.assert_close(Norm.named(name, channels).size(values), Norm.named(name, full).size(values))


@every_norm
def test_a_float64_scale_serves_float32_inputs(name: NormName, any_device: torch.device) -> None:
    norm = Norm.named(name, torch.tensor([0.5, 2.0], dtype=torch.float64))
    moved = norm.project(torch.ones(3, 2, device=any_device), 0.1)
    assert moved.dtype is torch.float32 and moved.device.type == any_device.type


@every_norm
@with_and_without_scale
@every_shape
def test_direction_has_unit_size_and_attains_the_dual_size(
    name: NormName, scaled: bool, shape: Shape, device: torch.device
) -> None:
    norm, gradient = norm_for(name, shape, scaled, device), normal(shape, device)
    direction = norm.direction(gradient)
    assert_rows(norm.size(direction), [1.0] * 4)
    torch.testing.assert_close(inner(gradient, direction), norm.dual_size(gradient))


@every_norm
def test_direction_is_zero_where_the_gradient_is_zero(name: NormName, device: torch.device) -> None:
    gradient = normal((3,), device)
    gradient[1] = 0
    moved = Norm.named(name).direction(gradient).ne(0).any(dim=1)
    assert moved.tolist() == [True, False, True, True]


@every_norm
@pytest.mark.parametrize("magnitude", [1e-12, 1e-25, 1e-37, 1e25])
def test_direction_has_unit_size_however_small_or_large_a_float32_gradient_is(
    name: NormName, magnitude: float, any_device: torch.device
) -> None:
    gradient = magnitude * torch.tensor([[3.0, -4.0, 0.0]], device=any_device)
    norm = Norm.named(name)
    torch.testing.assert_close(norm.size(norm.direction(gradient)).cpu(), torch.ones(1))


@given(names, st.booleans(), vectors(4), vectors(4))
def test_hoelder_no_perturbation_beats_the_dual_size(
    name: NormName, scaled: bool, gradient: list[float], perturbation: list[float]
) -> None:
    norm, _ = pair(name, scaled, 4)
    g, d = tensor(gradient), tensor(perturbation)
    assert inner(g, d).item() <= (norm.dual_size(g) * norm.size(d)).item() + 1e-12


@given(names, st.booleans(), vectors(4), st.floats(0.01, 5.0))
def test_projection_lands_where_the_oracle_says(
    name: NormName, scaled: bool, vector: list[float], radius: float
) -> None:
    norm, reference = pair(name, scaled, 4)
    assert_rows(norm.project(tensor(vector), radius), [reference.project(np.array(vector), radius)])


@given(names, st.booleans(), vectors(4), st.floats(0.01, 5.0))
def test_projection_is_the_nearest_point_of_the_ball(
    name: NormName, scaled: bool, vector: list[float], radius: float
) -> None:
    # P is nearest to v exactly when <v - P, k - P> <= 0 for every k of the ball (scaled units), and the largest
    # <v - P, k> over the ball is radius times the dual size of v - P.
    norm, reference = pair(name, scaled, 4)
    unscaled = Norm.named(name)
    scale = tensor(reference.scale.tolist())
    nearest = norm.project(tensor(vector), radius) / scale
    rest = tensor(vector) / scale - nearest
    assert (radius * unscaled.dual_size(rest)).item() <= inner(rest, nearest).item() + 1e-9


@every_norm
@with_and_without_scale
@every_shape
def test_projection_keeps_points_that_are_inside(
    name: NormName, scaled: bool, shape: Shape, device: torch.device
) -> None:
    norm, values = norm_for(name, shape, scaled, device), normal(shape, device)
    radius = 1.01 * norm.size(values).max().item()
    torch.testing.assert_close(norm.project(values, radius), values, rtol=1e-15, atol=0.0)


@every_norm
@with_and_without_scale
@every_shape
def test_projection_puts_points_from_outside_on_the_sphere(
    name: NormName, scaled: bool, shape: Shape, device: torch.device
) -> None:
    norm, values = norm_for(name, shape, scaled, device), normal(shape, device)
    radius = 0.5 * norm.size(values).min().item()
    assert_rows(norm.size(norm.project(values, radius)), [radius] * 4)


@every_norm
@with_and_without_scale
@every_shape
def test_a_size_per_example_does_to_each_what_its_own_size_does(
    name: NormName, scaled: bool, shape: Shape, device: torch.device
) -> None:
    norm, values = norm_for(name, shape, scaled, device), normal(shape, device)
    sizes = torch.linspace(0.1, 2.0, len(values), device=device)
    in_batch = torch.stack([norm.project(values, sizes), drawn(norm, values, sizes)])
    for i, size in enumerate(sizes.tolist()):
        alone = [norm.project(values, size), drawn(norm, values, size)]
        torch.testing.assert_close(in_batch[:, i], torch.stack(alone)[:, i])
    assert in_batch.dtype is values.dtype


def drawn(norm: Norm, like: torch.Tensor, size: float | torch.Tensor) -> torch.Tensor:
    return norm.random(like, size, torch.Generator(like.device).manual_seed(0))


@every_norm
@with_and_without_scale
def test_projection_is_idempotent(name: NormName, scaled: bool, device: torch.device) -> None:
    norm = norm_for(name, (2, 3), scaled, device)
    once = norm.project(normal((2, 3), device), 0.7)
    torch.testing.assert_close(norm.project(once, 0.7), once, rtol=1e-14, atol=1e-15)


@every_norm
def test_norms_of_an_empty_batch_are_empty(name: NormName, device: torch.device) -> None:
    norm, nothing = Norm.named(name), torch.zeros(0, 2, 3, device=device)
    assert norm.size(nothing).shape == norm.dual_size(nothing).shape == (0,)
    assert norm.project(nothing, 1.0).shape == norm.direction(nothing).shape == norm.random(nothing, 1.0).shape


@every_norm
@with_and_without_scale
@every_shape
def test_random_perturbations_stay_inside_the_ball(
    name: NormName, scaled: bool, shape: Shape, device: torch.device, generator: torch.Generator
) -> None:
    norm = norm_for(name, shape, scaled, device)
    sizes = norm.size(norm.random(torch.zeros(300, *shape, dtype=torch.float64, device=device), 0.3, generator))
    assert sizes.max().item() <= 0.3 * (1 + 1e-12)


def samples(name: NormName, size: int, device: torch.device, generator: torch.Generator) -> Tensor:
    """Points of the unit ball in scale units."""
    norm = norm_for(name, (size,), True, device)
    assert norm.scale is not None
    drawn = norm.random(torch.zeros(3000, size, dtype=torch.float64, device=device), 2.0, generator)
    return (drawn / norm.scale / 2.0).cpu()


@every_norm
@pytest.mark.parametrize("size", [1, 2, 5])
def test_random_size_to_the_power_of_the_dimension_is_uniform(
    name: NormName, size: int, device: torch.device, generator: torch.Generator
) -> None:
    depth = Norm.named(name).size(samples(name, size, device, generator)) ** size
    assert stats.kstest(depth.numpy(), "uniform").pvalue > 1e-3


@every_norm
@pytest.mark.parametrize("element", [0, 2])
def test_random_elements_follow_the_marginal_of_the_uniform_ball(
    name: NormName, element: int, device: torch.device, generator: torch.Generator
) -> None:
    size = 3
    coordinate = samples(name, size, device, generator)[:, element]
    marginals: dict[str, tuple[Tensor, tuple[float, float]]] = {
        "l1": (coordinate.abs(), (1.0, size)),
        "l2": (coordinate.square(), (0.5, (size + 1) / 2)),
        "linf": (coordinate.abs(), (1.0, 1.0)),
    }
    values, beta = marginals[name]
    assert stats.kstest(values.numpy(), "beta", args=beta).pvalue > 1e-3
    assert stats.binomtest(int((coordinate > 0).sum()), len(coordinate)).pvalue > 1e-3


@every_norm
def test_random_is_repeatable_with_the_same_seed_only(name: NormName, device: torch.device) -> None:
    def draw(seed: int) -> Tensor:
        like = torch.zeros(3, 2, 2, device=device)
        return Norm.named(name).random(like, 0.3, torch.Generator(device).manual_seed(seed))

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))


@every_norm
def test_name_and_dual_order_belong_together(name: NormName) -> None:
    norm = Norm.named(name)
    assert norm.name == name
    assert 1 / norm.p + 1 / norm.q == 1


def test_another_norm_has_the_same_units() -> None:
    norm = norm_for("linf", (3,), True, CPU)
    assert norm.other("l2").p == 2 and norm.other("l2").scale is norm.scale


@pytest.mark.parametrize("p", [0.0, 1.5, 3.0, math.nan])
def test_orders_other_than_1_2_inf_are_errors(p: float) -> None:
    with pytest.raises(UserError, match="p must be 1, 2 or inf"):
        Norm(p)


@pytest.mark.parametrize("element", [0.0, -1.0, math.nan])
def test_a_scale_that_is_not_positive_is_an_error(element: float) -> None:
    with pytest.raises(UserError, match="scale must be positive"):
        Norm(2.0, torch.tensor([1.0, element]))
