import ast
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from random_tensors import CPU, inner, normal, pair, tensor
from reference import NORMS, assert_rows, make_batch, norm_for, toy_data, vectors

import robust_student
from robust_student.core.norms import Norm, NormName
from robust_student.core.tensors import UNBOUNDED, UNIT_RANGE, InputRange, Shape
from robust_student.core.threat_model import FeatureRange, ThreatModel

every_norm = pytest.mark.parametrize("name", NORMS)
with_and_without_scale = pytest.mark.parametrize("scaled", [False, True], ids=["plain", "scaled"])
every_shape = pytest.mark.parametrize("shape", [(1,), (5,), (2, 3), (2, 3, 2)], ids=str)
RANGES = (UNIT_RANGE, InputRange(-1.0, 2.0), InputRange(0.0, math.inf), UNBOUNDED)
SHAPE = (2, 3)
PACKAGE = Path(robust_student.__file__).parent
MAKERS = {"core/threat_model.py", "core/norms.py"}
"""Where norms are made, and norm, radius and range are put together."""


# Made in one place ----------------------------------------------------------------------------------------------------


def calls_in(path: Path) -> set[str]:
    """Names of what a module calls: `f(...)` and `Holder.f(...)`."""
    made = [node.func for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    return {ast.unparse(called) for called in made}


def test_norm_radius_and_range_meet_in_one_place_only() -> None:
    for path in PACKAGE.rglob("*.py"):
        if path.relative_to(PACKAGE).as_posix() not in MAKERS:
            called = calls_in(path)
            assert not called & {"Norm", "Norm.named", "ThreatModel", "FeatureRange"}, path
            assert not any(name.endswith("default_radius") for name in called), path


def test_the_factories_agree_and_a_given_radius_is_kept() -> None:
    scale = torch.tensor([1.0, 2.0, 4.0])
    data = toy_data(shape=(3,), input_range=UNBOUNDED, scale=scale)
    for made in (
        ThreatModel.on(data, "l2"),
        ThreatModel.named("l2", None, UNBOUNDED, (3,), scale),
        ThreatModel.of(Norm.named("l2", scale), None, UNBOUNDED, (3,)),
    ):
        assert (made.norm.name, made.norm.scale is scale, made.input_range) == ("l2", True, UNBOUNDED)
        assert made.budget == pytest.approx(0.3 * math.sqrt(3) * 0.1)
    assert ThreatModel.on(data, "l1", 0.7).budget == 0.7


# The set --------------------------------------------------------------------------------------------------------------


@given(
    st.sampled_from(NORMS),
    st.booleans(),
    st.sampled_from(RANGES),
    st.floats(0.01, 3.0),
    st.integers(0, 1000),
)
def test_every_way_into_the_set_ends_inside(
    name: NormName, scaled: bool, limits: InputRange, radius: float, seed: int
) -> None:
    norm = norm_for(name, SHAPE, scaled, CPU)
    threat = ThreatModel(norm, radius, limits)
    inputs = limits.clip(make_batch(SHAPE, CPU, input_range=limits, seed=seed).inputs)
    points = inputs + 2 * radius * normal(SHAPE, CPU, len(inputs), seed)
    generators = [torch.Generator().manual_seed(k) for k in range(len(inputs))]
    unit = norm.unit(inputs)
    plain = threat.unscaled(inputs)
    for points_inside in (
        threat.project(points, inputs),
        threat.random(inputs, torch.Generator().manual_seed(seed)),
        threat.random_each(inputs, range(len(inputs))),
        plain.nearest(points / unit, inputs / unit) * unit,
        plain.surface(inputs / unit, generators) * unit,
    ):
        assert norm.size(points_inside - inputs).max().item() <= radius * (1 + 1e-9)
        assert limits.lower - 1e-12 <= points_inside.min().item() and points_inside.max().item() <= limits.upper + 1e-12


def test_random_is_the_uniform_perturbation_clipped_to_the_range(device: torch.device) -> None:
    norm, inputs = norm_for("linf", SHAPE, True, device), make_batch(SHAPE, device).inputs
    start = ThreatModel(norm, 0.4, UNIT_RANGE).random(inputs, torch.Generator(device).manual_seed(5))
    moved = inputs + norm.random(inputs, 0.4, torch.Generator(device).manual_seed(5))
    assert ((moved < 0) | (moved > 1)).any()
    assert torch.equal(start, moved.clamp(0.0, 1.0))


@every_norm
def test_a_point_drawn_with_an_examples_own_seed_does_not_depend_on_the_batch(name: NormName) -> None:
    threat, inputs = ThreatModel(Norm.named(name), 0.4, UNIT_RANGE), make_batch(SHAPE, CPU).inputs
    in_batch = threat.random_each(inputs, [3, 1, 4, 15, 9, 2])
    assert torch.equal(threat.random_each(inputs[[4, 0]], [9, 3]), in_batch[[4, 0]])
    assert not torch.equal(threat.random_each(inputs[:1], [4]), in_batch[:1])
    assert threat.random_each(inputs[:0], []).shape == (0, *SHAPE)


@every_norm
@with_and_without_scale
def test_a_radius_per_example_does_to_each_what_its_own_radius_does(name: NormName, scaled: bool) -> None:
    inputs = make_batch(SHAPE, CPU).inputs
    points, radii = inputs + normal(SHAPE, CPU, len(inputs)), torch.linspace(0.05, 0.8, len(inputs)).double()
    threat = ThreatModel(norm_for(name, SHAPE, scaled, CPU), radii, UNIT_RANGE)
    in_batch = [threat.project(points, inputs), threat.random_each(inputs, range(6)), *threat.box(inputs)]
    assert torch.equal(threat.radii(inputs), radii)
    for i, radius in enumerate(radii.tolist()):
        alone = threat.at(radius)
        one = inputs[i : i + 1]
        expected = [alone.project(points[i : i + 1], one), alone.random_each(one, [i]), *alone.box(one)]
        for result, separate in zip(in_batch, expected, strict=True):
            torch.testing.assert_close(result[i : i + 1], separate)
        assert threat.among(torch.tensor([i])).radii(one).item() == radius


@every_norm
@with_and_without_scale
def test_the_box_is_as_wide_as_the_ball_and_ends_with_the_range(name: NormName, scaled: bool) -> None:
    threat = ThreatModel(norm_for(name, (3,), scaled, CPU), 0.3, UNIT_RANGE)
    inputs = torch.tensor([[0.1, 0.5, 0.95]], dtype=torch.float64)
    units = np.linspace(0.5, 2.0, 3) if scaled else np.ones(3)
    lower, upper = threat.box(inputs)
    for k in range(3):
        reach = 0.3 * units[k]
        assert lower[0, k].item() == pytest.approx(max(inputs[0, k].item() - reach, 0.0))
        assert upper[0, k].item() == pytest.approx(min(inputs[0, k].item() + reach, 1.0))


@every_norm
@with_and_without_scale
def test_the_farthest_valid_point_is_the_farthest_corner(name: NormName, scaled: bool) -> None:
    norm, reference = pair(name, scaled, 4)
    inputs = torch.tensor([[0.2, 0.9, 0.5, 0.0]], dtype=torch.float64)
    far = reference.size(np.array([0.8, 0.9, 0.5, 1.0]))
    assert ThreatModel(norm, 9.0, UNIT_RANGE).farthest(inputs).item() == pytest.approx(far)
    assert ThreatModel(norm, 9.0, UNBOUNDED).farthest(inputs).item() == math.inf


@every_norm
def test_without_its_scale_the_set_is_the_same_in_other_units(name: NormName) -> None:
    norm = norm_for(name, SHAPE, True, CPU)
    threat, inputs = ThreatModel(norm, 0.3, UNIT_RANGE), make_batch(SHAPE, CPU).inputs
    plain, unit = threat.unscaled(inputs), norm.unit(inputs)
    points = inputs + normal(SHAPE, CPU, len(inputs))
    assert plain.norm.scale is None and isinstance(plain.input_range, FeatureRange) and plain.input_range.bounded
    torch.testing.assert_close(plain.project(points / unit, inputs / unit) * unit, threat.project(points, inputs))
    whole = ThreatModel(Norm.named(name), 0.3, UNIT_RANGE)
    assert whole.unscaled(inputs) is whole
    assert plain.widest(SHAPE) == pytest.approx(threat.widest(SHAPE))


# Steps ----------------------------------------------------------------------------------------------------------------
unit_points = st.lists(st.one_of(st.sampled_from([0.0, 1.0]), st.floats(0.0, 1.0)), min_size=4, max_size=4)


@given(st.sampled_from(NORMS), st.booleans(), unit_points, vectors(4), st.floats(0.01, 3.0))
def test_step_obeys_the_range_and_its_size(
    name: NormName, scaled: bool, point: list[float], gradient: list[float], size: float
) -> None:
    norm, _ = pair(name, scaled, 4)
    moved = ThreatModel(norm, 9.0, UNIT_RANGE).step(tensor(point), tensor(gradient), size)
    assert moved.min().item() >= 0 and moved.max().item() <= 1
    assert norm.size(moved - tensor(point)).item() <= size * (1 + 1e-9)


@given(
    st.sampled_from(("l1", "linf")),
    st.booleans(),
    unit_points,
    vectors(4),
    st.floats(0.01, 3.0),
    st.sampled_from([UNIT_RANGE, InputRange(0.0, math.inf), InputRange(-math.inf, 1.0), UNBOUNDED]),
)
@example("l1", False, [0.5, 0.5, 0.0, 1.0], [-3.0, 2.0, 0.0, 0.0], 1.0, UNIT_RANGE)
@example("l1", False, [0.5, 0.5, 0.0, 1.0], [-3.0, 2.0, 0.0, 0.0], 1.0, InputRange(0.0, math.inf))
@example("l1", False, [0.0, 0.0, 0.0, 0.0], [0.0, 0.0, -5.96e-8, 0.0], 2.0, InputRange(-math.inf, 1.0))
@example("linf", False, [0.0, 0.0, 0.0, 0.0], [1.0, 0.0, 1.1920928955078125e-07, 0.0], 1.0, UNIT_RANGE)
def test_step_gains_as_much_as_the_linear_programme(
    name: NormName, scaled: bool, point: list[float], gradient: list[float], size: float, limits: InputRange
) -> None:
    norm, reference = pair(name, scaled, 4)
    moved = ThreatModel(norm, 9.0, limits).step(tensor(point), tensor(gradient), size)
    best = reference.best_gain(np.array(point), np.array(gradient), size, limits)
    assert inner(tensor(gradient), moved - tensor(point)).item() == pytest.approx(best, abs=1e-7)


@given(st.booleans(), unit_points, vectors(4), st.floats(0.01, 3.0))
def test_l2_step_follows_the_gradient_of_the_elements_free_to_move(
    scaled: bool, point: list[float], gradient: list[float], size: float
) -> None:
    norm, reference = pair("l2", scaled, 4)
    moved = ThreatModel(norm, 9.0, UNIT_RANGE).step(tensor(point), tensor(gradient), size)
    assert_rows(moved, [reference.step(np.array(point), np.array(gradient), size, UNIT_RANGE)])


@every_norm
@with_and_without_scale
@every_shape
def test_step_without_limits_adds_the_direction(
    name: NormName, scaled: bool, shape: Shape, device: torch.device
) -> None:
    norm, points, gradient = norm_for(name, shape, scaled, device), normal(shape, device), normal(shape, device, seed=1)
    expected = points + 0.3 * norm.direction(gradient)
    torch.testing.assert_close(ThreatModel(norm, 9.0, UNBOUNDED).step(points, gradient, 0.3), expected)


@every_norm
@with_and_without_scale
def test_the_largest_change_goes_from_one_corner_of_the_range_to_the_other(name: NormName, scaled: bool) -> None:
    norm, reference = pair(name, scaled, 4)
    assert ThreatModel(norm, 9.0, InputRange(-1.0, 2.0)).widest((4,)) == pytest.approx(reference.size(np.full(4, 3.0)))
    assert ThreatModel(norm, 9.0, InputRange(0.0, math.inf)).widest((4,)) == math.inf


@pytest.mark.parametrize(
    ("name", "shape", "input_range", "expected"),
    [
        ("linf", (1, 28, 28), UNIT_RANGE, 0.1),
        ("linf", (3, 32, 32), UNIT_RANGE, 4 / 255),
        ("linf", (3, 32, 32), InputRange(0.0, 255.0), 4.0),
        ("linf", (3, 32), InputRange(-1.0, 1.0), 0.2),
        ("linf", (30,), UNBOUNDED, 0.1),
        ("linf", (30,), InputRange(0.0, math.inf), 0.1),
        ("l2", (3, 32, 32), UNIT_RANGE, 0.3 * math.sqrt(3072) * 4 / 255),
        ("l2", (25,), UNBOUNDED, 0.15),
        ("l1", (3, 32, 32), UNIT_RANGE, 0.12 * 3072 * 4 / 255),
        ("l1", (30,), UNBOUNDED, 0.36),
    ],
)
def test_default_radius_follows_the_documented_factors(
    name: NormName, shape: Shape, input_range: InputRange, expected: float
) -> None:
    assert ThreatModel.named(name, None, input_range, shape).budget == pytest.approx(expected)
