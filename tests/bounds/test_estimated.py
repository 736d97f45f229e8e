import math
from collections.abc import Callable

import numpy as np
import pytest
import reference
import torch
from reference import NORMS, Batch, assert_rows, linear_student, make_batch, norm_for, smooth_student
from reference_norm import ReferenceNorm
from torch import Tensor, nn

from robust_student.bounds.estimated import estimated_confidence_radius, estimated_decision_radius
from robust_student.core.margins import Score, log_odds, margin
from robust_student.core.norms import Norm, NormName
from robust_student.core.tensors import Shape

every_norm = pytest.mark.parametrize("name", NORMS)
every_score = pytest.mark.parametrize("score", list(Score))
with_and_without_scale = pytest.mark.parametrize("scaled", [False, True], ids=["plain", "scaled"])
SHAPE: Shape = (2, 3)
Radius = Callable[..., Tensor]


def decision_radius(student: nn.Module, batch: Batch, norm: Norm, rivals: int | None = None) -> Tensor:
    points = batch.inputs.clone().requires_grad_()
    return estimated_decision_radius(student(points), points, batch.labels, norm, rivals=rivals)


def confidence_radius(student: nn.Module, batch: Batch, norm: Norm, score: Score) -> Tensor:
    points = batch.inputs.clone().requires_grad_()
    return estimated_confidence_radius(student(points), points, batch.labels, batch.teacher_logits, norm, score=score)


def weights_of(student: nn.Module) -> Tensor:
    """The rows w_k of an affine student."""
    return next(student.parameters())


def rightly_decided(student: nn.Module, batch: Batch) -> Batch:
    """The batch with the student's own decisions as labels."""
    return batch._replace(labels=student(batch.inputs).argmax(dim=1))


@every_norm
@with_and_without_scale
def test_decision_radius_of_an_affine_student_is_the_distance_to_the_nearest_boundary(
    name: NormName, scaled: bool, device: torch.device
) -> None:
    student, norm = linear_student(SHAPE, 4, device), norm_for(name, SHAPE, scaled, device)
    batch = rightly_decided(student, make_batch(SHAPE, device, classes=4))
    oracle, weights = ReferenceNorm(norm, SHAPE), weights_of(student).detach().cpu().numpy()
    expected = [
        min((row[y] - row[j]) / oracle.dual_size(weights[y] - weights[j]) for j in reference.rivals(row, y))
        for row, y in zip(student(batch.inputs).tolist(), batch.labels.tolist(), strict=True)
    ]
    assert_rows(decision_radius(student, batch, norm), expected)


@every_norm
@with_and_without_scale
def test_a_perturbation_of_just_the_decision_radius_reaches_the_boundary_of_an_affine_student(
    name: NormName, scaled: bool, device: torch.device
) -> None:
    student, norm = linear_student(SHAPE, 4, device), norm_for(name, SHAPE, scaled, device)
    batch = rightly_decided(student, make_batch(SHAPE, device, classes=4))
    radius = decision_radius(student, batch, norm)
    weights = weights_of(student).detach()
    margins_reached = []
    for rival in range(4):
        away = norm.direction((weights[rival] - weights[batch.labels]).view(-1, *SHAPE))
        margins_reached.append(margin(student(batch.inputs + radius[:, None, None] * away), batch.labels))
    assert_rows(torch.stack(margins_reached).amin(dim=0), [0.0] * len(radius))


@every_norm
@pytest.mark.parametrize("rivals", [None, 1, 2, 9])
def test_decision_radius_of_a_curved_student_matches_the_loop(
    name: NormName, rivals: int | None, device: torch.device
) -> None:
    student, norm, batch = smooth_student(SHAPE, 4, device), Norm.named(name), make_batch(SHAPE, device, classes=4)
    expected = [
        reference.decision_radius(student, x, y, norm, rivals)
        for x, y in zip(batch.inputs, batch.labels.tolist(), strict=True)
    ]
    assert_rows(decision_radius(student, batch, norm, rivals), expected)


@every_norm
def test_decision_radius_is_zero_where_the_decision_is_wrong(name: NormName, device: torch.device) -> None:
    student, batch = linear_student(SHAPE, 3, device), make_batch(SHAPE, device)
    wrong = batch._replace(labels=(student(batch.inputs).argmax(dim=1) + 1) % 3)
    assert decision_radius(student, wrong, Norm.named(name)).tolist() == [0.0] * len(batch.labels)


@every_norm
def test_decision_radius_is_infinite_where_every_slope_is_zero(name: NormName, device: torch.device) -> None:
    student = linear_student(SHAPE, 3, device)
    with torch.no_grad():
        weights_of(student)[:] = 1.0
    batch = rightly_decided(student, make_batch(SHAPE, device))
    assert decision_radius(student, batch, Norm.named(name)).tolist() == [math.inf] * len(batch.labels)


def test_radii_are_zero_where_the_student_is_flat_and_falls_short(device: torch.device) -> None:
    student, norm = linear_student(SHAPE, 3, device), Norm.named("l2")
    with torch.no_grad():
        weights_of(student)[:] = 0.0
    batch = make_batch(SHAPE, device)
    wrong = batch._replace(labels=student(batch.inputs).argmin(dim=1))
    sure = 9.0 * torch.nn.functional.one_hot(wrong.labels, 3).double()
    assert decision_radius(student, wrong, norm).eq(0).all()
    for score in Score:
        assert confidence_radius(student, wrong._replace(teacher_logits=sure), norm, score).eq(0).all()


@every_norm
def test_decision_radius_ignores_a_rival_that_never_comes_closer(name: NormName, device: torch.device) -> None:
    student = linear_student(SHAPE, 3, device)
    with torch.no_grad():
        weights_of(student)[1] = weights_of(student)[0]
        student.get_parameter("1.bias").copy_(torch.tensor([2.0, 1.9, 0.0]))
    batch = make_batch(SHAPE, device)._replace(labels=torch.zeros(6, dtype=torch.int64, device=device))
    batch = batch._replace(inputs=0.1 * batch.inputs)
    weights = weights_of(student).detach().cpu().numpy()
    slope = ReferenceNorm(Norm.named(name), SHAPE).dual_size(weights[0] - weights[2])
    expected = [(row[0] - row[2]) / slope for row in student(batch.inputs).tolist()]
    assert_rows(decision_radius(student, batch, Norm.named(name)), expected)


@every_norm
def test_decision_radius_falls_as_more_rivals_are_looked_at(name: NormName, device: torch.device) -> None:
    student = smooth_student(SHAPE, 6, device)
    batch = rightly_decided(student, make_batch(SHAPE, device, classes=6, examples=40))
    radii = [decision_radius(student, batch, Norm.named(name), count) for count in (1, 2, 3, 4, 5, None)]
    assert all(bool((more <= fewer).all()) for fewer, more in zip(radii, radii[1:], strict=False))
    assert not torch.equal(radii[0], radii[-1])
    assert torch.equal(radii[-2], radii[-1])


@every_norm
@with_and_without_scale
def test_confidence_radius_of_two_affine_classes_is_the_distance_to_where_the_scores_meet(
    name: NormName, scaled: bool, device: torch.device
) -> None:
    student, norm = linear_student(SHAPE, 2, device), norm_for(name, SHAPE, scaled, device)
    batch = make_batch(SHAPE, device, classes=2)
    weights = weights_of(student).detach().cpu().numpy()
    slope = ReferenceNorm(norm, SHAPE).dual_size(weights[1] - weights[0])
    gaps = [
        (s[y] - s[1 - y]) - (t[y] - t[1 - y])
        for s, t, y in zip(
            student(batch.inputs).tolist(), batch.teacher_logits.tolist(), batch.labels.tolist(), strict=True
        )
    ]
    assert 0 < sum(gap > 0 for gap in gaps) < len(gaps)
    assert_rows(confidence_radius(student, batch, norm, Score.LOGIT), [max(gap, 0.0) / slope for gap in gaps])


@every_norm
def test_confidence_radius_on_probabilities_is_the_literal_formula(name: NormName, device: torch.device) -> None:
    student, norm, batch = smooth_student(SHAPE, 3, device), Norm.named(name), make_batch(SHAPE, device)
    oracle, expected = ReferenceNorm(norm, SHAPE), []
    for x, y, teacher in zip(batch.inputs, batch.labels.tolist(), batch.teacher_logits.tolist(), strict=True):
        excess = reference.softmax(student(x[None])[0].tolist())[y] - reference.softmax(teacher)[y]
        slope = oracle.dual_size(reference.score_jacobian(student, x, Score.PROBABILITY)[y])
        expected.append(max(excess, 0.0) / slope)
    assert_rows(confidence_radius(student, batch, norm, Score.PROBABILITY), expected)


def test_confidence_radius_on_logits_is_the_excess_of_log_odds_over_their_slope(device: torch.device) -> None:
    student, norm, batch = smooth_student(SHAPE, 3, device), Norm.named("l2"), make_batch(SHAPE, device)
    excess = log_odds(student(batch.inputs), batch.labels) - log_odds(batch.teacher_logits, batch.labels)
    points = batch.inputs.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(log_odds(student(points), batch.labels).sum(), points)
    slopes = torch.tensor(np.linalg.norm(reference.rows(gradient), axis=1))
    assert_rows(confidence_radius(student, batch, norm, Score.LOGIT), (excess.relu().cpu() / slopes).tolist())


@every_score
def test_confidence_radius_is_zero_below_the_teacher_and_positive_above(score: Score, device: torch.device) -> None:
    student, batch = smooth_student(SHAPE, 3, device), make_batch(SHAPE, device)
    shift = torch.nn.functional.one_hot(batch.labels, 3)
    logits = student(batch.inputs).detach()
    below, above = batch._replace(teacher_logits=logits + shift), batch._replace(teacher_logits=logits - shift)
    assert confidence_radius(student, below, Norm.named("l2"), score).eq(0).all()
    assert confidence_radius(student, above, Norm.named("l2"), score).gt(0).all()


@every_score
def test_confidence_radius_is_infinite_where_the_slope_is_zero(score: Score, device: torch.device) -> None:
    student = linear_student(SHAPE, 3, device)
    with torch.no_grad():
        weights_of(student)[:] = 0.0
    batch = rightly_decided(student, make_batch(SHAPE, device))
    batch = batch._replace(teacher_logits=torch.zeros_like(batch.teacher_logits))
    assert confidence_radius(student, batch, Norm.named("l2"), score).tolist() == [math.inf] * len(batch.labels)


def parameter_gradient_of(radius: Radius, student: nn.Module, batch: Batch, *rest: object) -> list[Tensor]:
    points = batch.inputs.clone().requires_grad_()
    values = radius(student(points), points, batch.labels, *rest, create_graph=True)
    finite = values[values.isfinite()]
    return list(torch.autograd.grad(finite.sum(), list(student.parameters())))


@every_norm
@pytest.mark.parametrize("bound", ["decision", "confidence"])
def test_radius_can_be_differentiated_with_respect_to_the_parameters(
    name: NormName, bound: str, device: torch.device
) -> None:
    student = smooth_student(SHAPE, 3, device)
    batch = rightly_decided(student, make_batch(SHAPE, device))
    batch = batch._replace(teacher_logits=0.1 * student(batch.inputs).detach())
    teacher = [batch.teacher_logits] if bound == "confidence" else []
    radius: Radius = estimated_confidence_radius if teacher else estimated_decision_radius
    weight = next(student.parameters())
    (gradient, *_) = parameter_gradient_of(radius, student, batch, *teacher, Norm.named(name))

    def total(change: float) -> float:
        with torch.no_grad():
            weight[2, 3] += change
        points = batch.inputs.clone().requires_grad_()
        value = radius(student(points), points, batch.labels, *teacher, Norm.named(name)).sum().item()
        with torch.no_grad():
            weight[2, 3] -= change
        return float(value)

    central = (total(1e-6) - total(-1e-6)) / 2e-6
    assert gradient[2, 3].item() == pytest.approx(central, rel=1e-5, abs=1e-8)


@every_norm
def test_radius_has_finite_parameter_gradients_in_a_batch_with_wrong_and_flat_examples(
    name: NormName, device: torch.device
) -> None:
    flat_below = nn.Sequential(nn.ReLU(), linear_student(SHAPE, 3, device))
    batch = make_batch(SHAPE, device)
    batch.inputs[:3] -= 2.0
    for gradient in parameter_gradient_of(estimated_decision_radius, flat_below, batch, Norm.named(name)):
        assert gradient.isfinite().all()
