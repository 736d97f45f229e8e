import math

import pytest
import reference
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference import Batch, assert_rows, make_batch, scored, vectors
from torch import Tensor, nn

from robust_student.core import margins
from robust_student.core.margins import Form, Score

every_score = pytest.mark.parametrize("score", list(Score))
SHAPE = (2, 4, 4)


@pytest.fixture
def batch(device: torch.device) -> Batch:
    return make_batch(SHAPE, device)


def logits_and_labels(examples: int = 7, classes: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    logits = 3 * torch.randn((examples, classes), generator=generator, dtype=torch.float64)
    return logits, torch.randint(classes, (examples,), generator=generator)


def pairs(logits: Tensor, labels: Tensor) -> list[tuple[list[float], int]]:
    """Each example's row of logits and its label as plain Python numbers."""
    return list(zip(logits.tolist(), labels.tolist(), strict=True))


@every_score
def test_scores_are_the_logits_or_their_softmax(score: Score) -> None:
    logits, labels = logits_and_labels()
    assert_rows(margins.scores(logits, score), [scored(row, score) for row, _ in pairs(logits, labels)])


def test_true_score_is_the_score_of_the_label() -> None:
    logits, labels = logits_and_labels()
    assert_rows(margins.true_score(logits, labels), [row[y] for row, y in pairs(logits, labels)])


def test_margins_are_the_true_score_less_each_score() -> None:
    logits, labels = logits_and_labels()
    expected = [[row[y] - value for value in row] for row, y in pairs(logits, labels)]
    assert_rows(margins.margins(logits, labels), expected)


def test_margin_is_the_smallest_over_the_other_classes() -> None:
    logits, labels = logits_and_labels()
    assert_rows(margins.margin(logits, labels), [reference.margin(row, y) for row, y in pairs(logits, labels)])


@given(vectors(4), st.integers(0, 3))
def test_margin_is_positive_exactly_when_no_other_class_scores_as_high(row: list[float], label: int) -> None:
    right = all(row[label] > row[j] for j in range(4) if j != label)
    margin = margins.margin(torch.tensor([row], dtype=torch.float64), torch.tensor([label]))
    assert (margin.item() > 0) == right


def test_runner_up_is_the_best_of_the_other_classes() -> None:
    logits, labels = logits_and_labels()
    assert_rows(margins.runner_up(logits, labels), [reference.runner_up(row, y) for row, y in pairs(logits, labels)])


def test_log_odds_is_the_logit_function_of_the_probability() -> None:
    logits, labels = logits_and_labels()
    probabilities = [reference.softmax(row)[y] for row, y in pairs(logits, labels)]
    assert_rows(margins.log_odds(logits, labels), [math.log(p / (1 - p)) for p in probabilities])


def test_log_odds_of_two_classes_is_the_margin_however_confident() -> None:
    logits = torch.tensor([[300.0, -400.0], [300.0, -400.0]])
    assert margins.log_odds(logits, torch.tensor([0, 1])).tolist() == [700.0, -700.0]


def test_is_rival_is_false_at_the_label_only() -> None:
    logits, labels = logits_and_labels(examples=2, classes=3)
    expected = [[j != y for j in range(3)] for y in labels.tolist()]
    assert margins.is_rival(logits, labels).tolist() == expected


@every_score
def test_confidence_of_the_margin_form_is_the_lead_over_the_runner_up(score: Score) -> None:
    logits, labels = logits_and_labels()
    expected = [reference.margin(scored(row, score), y) for row, y in pairs(logits, labels)]
    assert_rows(margins.confidence(logits, labels, Form.MARGIN, score), expected)


@every_score
def test_confidence_of_the_teacher_form_is_the_true_score(score: Score) -> None:
    logits, labels = logits_and_labels()
    expected = [scored(row, score)[y] for row, y in pairs(logits, labels)]
    assert_rows(margins.confidence(logits, labels, Form.TEACHER, score), expected)


def test_input_gradient_is_each_examples_own_gradient(smooth: nn.Module, batch: Batch) -> None:
    def value(points: Tensor) -> Tensor:
        return smooth(points).square().sum(dim=1)

    points = batch.inputs.requires_grad_()
    alone = [reference.jacobian(lambda x: value(x[None])[0], x).tolist() for x in batch.inputs]
    assert_rows(margins.input_gradient(value(points), points), alone)


def test_input_gradient_is_zero_where_the_values_ignore_the_inputs(batch: Batch) -> None:
    points = batch.inputs.requires_grad_()
    constant = torch.ones(len(points), dtype=torch.float64, device=points.device)
    weighted = constant * torch.ones_like(constant, requires_grad=True)
    assert margins.input_gradient(constant, points).eq(0).all()
    assert margins.input_gradient(weighted, points).eq(0).all()


def test_input_gradient_can_be_differentiated_on_request_only(smooth: nn.Module, batch: Batch) -> None:
    points = batch.inputs.requires_grad_()
    values = smooth(points)[:, 0]
    assert margins.input_gradient(values, points, create_graph=True).requires_grad
    assert not margins.input_gradient(values, points).requires_grad


def test_input_gradient_leaves_the_parameters_alone(smooth: nn.Module, batch: Batch) -> None:
    points = batch.inputs.requires_grad_()
    margins.input_gradient(smooth(points)[:, 0], points)
    assert all(parameter.grad is None for parameter in smooth.parameters()) and points.grad is None


def test_jacobian_is_that_of_torch_one_example_at_a_time(smooth: nn.Module, batch: Batch) -> None:
    points = batch.inputs.requires_grad_()
    alone = [reference.jacobian(lambda x: smooth(x[None])[0], x).tolist() for x in batch.inputs]
    assert_rows(margins.jacobian(smooth(points), points), alone)
