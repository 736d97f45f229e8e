import math
from collections.abc import Callable
from typing import Any

import pytest
import reference
import torch
from reference import (
    NORMS,
    Batch,
    assert_finite_gradients,
    assert_rows,
    gradients_after,
    linear_student,
    make_batch,
    norm_for,
    seeded,
    smooth_student,
)
from reference_norm import ReferenceNorm
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from robust_student.core.errors import UserError
from robust_student.core.margins import Form, Score
from robust_student.core.norms import Norm, NormName
from robust_student.core.tensors import Shape
from robust_student.objectives.gradient_penalties import (
    exact_slope,
    projected_jacobian,
    radius_hinge,
    require_twice_differentiable,
)

every_norm = pytest.mark.parametrize("name", NORMS)
every_form = pytest.mark.parametrize("form", list(Form))
every_score = pytest.mark.parametrize("score", list(Score))
with_and_without_scale = pytest.mark.parametrize("scaled", [False, True], ids=["plain", "scaled"])
SHAPE: Shape = (2, 3)


def slope_of(student: nn.Module, batch: Batch, norm: Norm, form: Form, score: Score) -> Tensor:
    points = batch.inputs.clone().requires_grad_()
    return exact_slope(student(points), points, batch.labels, norm, form=form, score=score)


def hinge_of(student: nn.Module, batch: Batch, norm: Norm, target: float) -> Tensor:
    points = batch.inputs.clone().requires_grad_()
    return radius_hinge(student(points), points, batch.labels, norm, target=target)


def projection_of(
    student: nn.Module, batch: Batch, score: Score, projections: int, norm: Norm | None = None, seed: int = 0
) -> Tensor:
    points = batch.inputs.clone().requires_grad_()
    generator = torch.Generator(points.device).manual_seed(seed)
    norm = norm or Norm.named("l2")
    return projected_jacobian(student(points), points, norm, score=score, projections=projections, source=generator)


# The exact slope ----------------------------------------------------------------------------------------------------


@every_norm
@with_and_without_scale
@every_form
@every_score
def test_exact_slope_matches_the_loop(
    name: NormName, scaled: bool, form: Form, score: Score, device: torch.device
) -> None:
    student, norm = smooth_student(SHAPE, 4, device), norm_for(name, SHAPE, scaled, device)
    batch = make_batch(SHAPE, device, classes=4)
    expected = [
        reference.slope(student, x, y, norm, form, score)
        for x, y in zip(batch.inputs, batch.labels.tolist(), strict=True)
    ]
    assert_rows(slope_of(student, batch, norm, form, score), expected)


@every_norm
@with_and_without_scale
def test_exact_slope_of_an_affine_margin_is_the_squared_dual_norm_of_the_weight_difference(
    name: NormName, scaled: bool, device: torch.device
) -> None:
    student, norm = linear_student(SHAPE, 2, device), norm_for(name, SHAPE, scaled, device)
    batch = make_batch(SHAPE, device, classes=2)
    weights = next(student.parameters()).detach().cpu().numpy()
    expected = ReferenceNorm(norm, SHAPE).dual_size(weights[0] - weights[1]) ** 2
    assert_rows(slope_of(student, batch, norm, Form.MARGIN, Score.LOGIT), [expected] * len(batch.labels))


def change(parameter: Tensor, amount: float) -> None:
    with torch.no_grad():
        parameter[1, 2] += amount


@every_norm
@pytest.mark.parametrize(
    "term",
    [
        lambda student, batch, norm: slope_of(student, batch, norm, Form.MARGIN, Score.LOGIT),
        lambda student, batch, norm: slope_of(student, batch, norm, Form.TEACHER, Score.PROBABILITY),
        lambda student, batch, norm: hinge_of(student, batch, norm, 2.0),
        lambda student, batch, norm: projection_of(student, batch, Score.PROBABILITY, 2),
    ],
    ids=["margin", "teacher", "direct", "projection"],
)
def test_parameter_gradient_of_a_term_is_its_finite_difference(
    name: NormName, term: Callable[[nn.Module, Batch, Norm], Tensor], device: torch.device
) -> None:
    student, norm, batch = smooth_student(SHAPE, 3, device), Norm.named(name), make_batch(SHAPE, device)
    weight = next(student.parameters())
    gradients_after(term(student, batch, norm).sum(), student)
    assert weight.grad is not None
    values = []
    for amount in (1e-6, -2e-6):
        change(weight, amount)
        values.append(term(student, batch, norm).sum().item())
    assert weight.grad[1, 2].item() == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-4, abs=1e-6)


# The projected Jacobian ---------------------------------------------------------------------------------------------


def test_one_projection_is_exact_where_the_rows_of_the_jacobian_are_orthogonal(device: torch.device) -> None:
    student = linear_student(SHAPE, 4, device)
    with torch.no_grad():
        next(student.parameters()).copy_(3 * torch.eye(4, 6))
    batch = make_batch(SHAPE, device, classes=4)
    assert_rows(projection_of(student, batch, Score.LOGIT, projections=1), [4 * 9.0] * len(batch.labels))


@every_score
def test_projections_average_to_the_squared_frobenius_norm(score: Score, device: torch.device) -> None:
    student, example = smooth_student(SHAPE, 3, device), make_batch(SHAPE, device, examples=1)
    draws = projection_of(student, Batch(*(tensor.expand(4000, *tensor.shape[1:]) for tensor in example)), score, 1)
    frobenius = (reference.score_jacobian(student, example.inputs[0], score) ** 2).sum()
    standard_error = draws.std().item() / math.sqrt(4000)
    assert 0 < standard_error < 0.05 * frobenius
    assert draws.mean().item() == pytest.approx(frobenius, abs=4 * standard_error)


def test_several_projections_are_the_mean_of_single_ones(device: torch.device) -> None:
    student, batch = smooth_student(SHAPE, 3, device), make_batch(SHAPE, device)
    points, norm = batch.inputs.requires_grad_(), Norm.named("l2")
    generator = torch.Generator(device).manual_seed(7)
    single = [
        projected_jacobian(student(points), points, norm, score=Score.LOGIT, projections=1, source=generator)
        for _ in range(3)
    ]
    joint = projection_of(student, batch, Score.LOGIT, projections=3, seed=7)
    torch.testing.assert_close(joint, torch.stack(single).mean(dim=0))


def test_projection_is_measured_in_scale_units(device: torch.device) -> None:
    student, batch = smooth_student(SHAPE, 3, device), make_batch(SHAPE, device)
    doubled = Norm.named("l2", torch.full(SHAPE, 2.0, dtype=torch.float64, device=device))
    plain = projection_of(student, batch, Score.LOGIT, 1)
    torch.testing.assert_close(projection_of(student, batch, Score.LOGIT, 1, doubled), 4 * plain)


@pytest.mark.parametrize("name", ["l1", "linf"])
def test_projection_refuses_norms_other_than_l2(name: NormName, device: torch.device) -> None:
    student, batch = linear_student(SHAPE, 3, device), make_batch(SHAPE, device)
    with pytest.raises(UserError, match=f"needs norm l2, not {name}"):
        projection_of(student, batch, Score.LOGIT, 1, Norm.named(name))


# The hinge on the radius --------------------------------------------------------------------------------------------


@every_norm
@with_and_without_scale
@pytest.mark.parametrize("target", [0.05, 1.0])
def test_radius_hinge_matches_the_loop(name: NormName, scaled: bool, target: float, device: torch.device) -> None:
    student, norm = smooth_student(SHAPE, 5, device), norm_for(name, SHAPE, scaled, device)
    batch = make_batch(SHAPE, device, classes=5, examples=20)
    expected = [
        reference.radius_hinge(student, x, y, norm, target)
        for x, y in zip(batch.inputs, batch.labels.tolist(), strict=True)
    ]
    right = (student(batch.inputs).argmax(dim=1) == batch.labels).sum().item()
    assert 0 < right < len(expected)
    assert_rows(hinge_of(student, batch, norm, target), expected)


def test_radius_hinge_of_a_wrong_decision_does_not_reward_a_larger_slope(device: torch.device) -> None:
    student, batch = linear_student(SHAPE, 3, device), make_batch(SHAPE, device)
    wrong = batch._replace(labels=student(batch.inputs).argmin(dim=1))
    logits = student(batch.inputs).detach()
    gap = logits.amax(dim=1) - logits.amin(dim=1)
    assert_rows(hinge_of(student, wrong, Norm.named("l2"), 0.7), (0.7 + gap).tolist())


def test_radius_hinge_is_zero_where_the_student_is_right_and_flat(device: torch.device) -> None:
    student, batch = dead_student(device), make_batch(SHAPE, device)
    flat = batch._replace(labels=student(batch.inputs).argmax(dim=1))
    assert hinge_of(student, flat, Norm.named("l2"), 0.7).eq(0).all()


# Points without slope -----------------------------------------------------------------------------------------------


def dead_student(device: torch.device) -> nn.Module:
    """Every ReLU is off on [0, 1]: the gradient with respect to the input is exactly zero."""
    student = seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3)), device)
    with torch.no_grad():
        student.get_parameter("1.bias").fill_(-100.0)
    return student


@every_norm
@every_form
@every_score
def test_exact_slope_has_finite_gradients_where_it_is_zero(
    name: NormName, form: Form, score: Score, device: torch.device
) -> None:
    student = dead_student(device)
    slopes = slope_of(student, make_batch(SHAPE, device), Norm.named(name), form, score)
    assert slopes.eq(0).all()
    assert_finite_gradients(slopes.sum(), student)


@every_norm
def test_radius_hinge_has_finite_gradients_where_the_slope_is_zero(name: NormName, device: torch.device) -> None:
    student = dead_student(device)
    hinge = hinge_of(student, make_batch(SHAPE, device), Norm.named(name), 1.0)
    assert_finite_gradients(hinge.sum(), student)


@every_norm
@pytest.mark.parametrize("size", [1e-12, 1e-18, 1e-25, 1e-36])
def test_radius_hinge_has_finite_float32_gradients_where_the_slope_is_almost_zero(
    name: NormName, size: float, any_device: torch.device
) -> None:
    student = nn.Sequential(nn.Flatten(), nn.Linear(6, 3)).to(any_device)
    with torch.no_grad():
        student.get_parameter("1.weight").copy_(size * torch.eye(3, 6))
        student.get_parameter("1.bias").copy_(torch.tensor([1.0, 0.0, -1.0]))
    points = torch.rand(2, *SHAPE, device=any_device).requires_grad_()
    labels = torch.tensor([0, 1], device=any_device)
    hinge = radius_hinge(student(points), points, labels, Norm.named(name), target=1.0)
    assert_finite_gradients(hinge.sum(), student)


def test_projection_has_finite_gradients_where_the_slope_is_zero(device: torch.device) -> None:
    student = dead_student(device)
    projection = projection_of(student, make_batch(SHAPE, device), Score.PROBABILITY, 1)
    assert_finite_gradients(projection.sum(), student)


# The probe for second derivatives -----------------------------------------------------------------------------------


class _Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 2 * x * gradient


class _Detached(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return (2 * x * gradient).detach()


class Squared(nn.Module):
    """A layer around an autograd function."""

    def __init__(self, function: type[torch.autograd.Function]) -> None:
        super().__init__()
        self.function = function

    def forward(self, inputs: Tensor) -> Tensor:
        squared: Tensor = self.function.apply(inputs)  # type: ignore[no-untyped-call]
        return squared


class Sum(nn.Module):
    """A leaf module of two arguments."""

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return left + right


class Residual(nn.Module):
    """A block whose skip connection is added by a module of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(3, 3)
        self.sum = Sum()

    def forward(self, inputs: Tensor) -> Tensor:
        return self.sum(inputs, self.body(inputs))


class Outside(nn.Module):
    """Applies a once-differentiable function itself, not in a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(_Once.apply(inputs))  # type: ignore[no-untyped-call]


def convolution() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1), nn.BatchNorm2d(2), nn.ReLU(), nn.SiLU(), nn.Flatten(), nn.Linear(32, 3)
    )


@pytest.mark.parametrize(
    ("build", "shape"),
    [
        (convolution, (1, 4, 4)),
        (lambda: nn.Sequential(nn.Linear(3, 3), nn.ReLU(inplace=True), nn.Dropout(), nn.Linear(3, 2)), (3,)),
        (lambda: nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.GELU(), nn.Linear(4, 2)), (3,)),
        (lambda: nn.Sequential(Residual(), nn.Linear(3, 2)), (3,)),
        (lambda: nn.utils.parametrizations.weight_norm(nn.Linear(3, 2)), (3,)),
    ],
    ids=["convolution", "in place", "layer norm", "two arguments", "parametrised"],
)
def test_ordinary_students_are_twice_differentiable(
    build: Callable[[], nn.Module], shape: Shape, device: torch.device
) -> None:
    require_twice_differentiable(seeded(build, device), make_batch(shape, device).inputs)


@pytest.mark.parametrize("function", [_Once, _Detached])
def test_a_layer_without_second_derivative_is_named_and_secant_offered(
    function: type[torch.autograd.Function], device: torch.device
) -> None:
    def build() -> nn.Module:
        return nn.Sequential(nn.Linear(3, 3), nn.Sequential(nn.ReLU(), Squared(function)), nn.Linear(3, 2))

    with pytest.raises(UserError, match=r"module '1\.1' \(Squared\) is not twice differentiable.*secant") as error:
        require_twice_differentiable(seeded(build, device), make_batch((3,), device).inputs)
    assert "\n" not in str(error.value)


def test_a_problem_outside_any_layer_is_blamed_on_the_network(device: torch.device) -> None:
    with pytest.raises(UserError, match="network Outside is not twice differentiable.*secant"):
        require_twice_differentiable(seeded(Outside, device), make_batch((3,), device).inputs)


@pytest.mark.parametrize("layer", [nn.Identity, lambda: Squared(_Once)], ids=["accepted", "refused"])
def test_the_probe_leaves_modes_buffers_gradients_and_hooks_as_they_were(
    layer: Callable[[], nn.Module], device: torch.device
) -> None:
    student = seeded(lambda: nn.Sequential(convolution(), layer()), device).train()
    frozen = student.get_submodule("0.0").eval()
    buffers = {name: buffer.clone() for name, buffer in student.named_buffers()}
    try:
        require_twice_differentiable(student, make_batch((1, 4, 4), device).inputs)
    except UserError:
        assert not isinstance(student.get_submodule("1"), nn.Identity)
    assert [module for module in student.modules() if not module.training] == [frozen]
    assert all(torch.equal(buffers[name], buffer) for name, buffer in student.named_buffers())
    assert all(parameter.grad is None for parameter in student.parameters())
    assert not any(module._forward_pre_hooks for module in student.modules())


def test_the_probe_works_on_a_batch_of_one(device: torch.device) -> None:
    student = seeded(convolution, device).train()
    require_twice_differentiable(student, make_batch((1, 4, 4), device, examples=1).inputs)
