"""What an objective is shown: a teacher that is asked once, at any point, and never taught."""

import pytest
import torch
from reference import message_of, prototype_classifier, toy_data
from torch import Tensor, nn

from robust_student.core.module_state import frozen
from robust_student.models.model import as_model
from robust_student.objectives.batch import Batch, Terms
from robust_student.objectives.robust_student import RobustStudentObjective
from robust_student.training.teacher_scores import TeacherScores

DATA = toy_data()
INPUTS, LABELS = DATA.training_examples.floats(slice(0, 6)), DATA.training_examples.labels[:6]


class Asked(nn.Module):
    """Counts its passes."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.passes = prototype_classifier(DATA), 0

    def forward(self, inputs: Tensor) -> Tensor:
        self.passes += 1
        return self.inner(inputs)


def test_known_logits_spare_the_teacher_and_others_are_asked_for_once() -> None:
    teacher = Asked()
    logits = torch.randn(6, 3, requires_grad=True)
    batch = Batch(INPUTS, LABELS, teacher_logits=logits, teacher=teacher)
    assert torch.equal(batch.targets, logits) and not batch.targets.requires_grad and teacher.passes == 0
    batch = Batch(INPUTS, LABELS, teacher=teacher)
    assert torch.equal(batch.targets, batch.targets) and not batch.targets.requires_grad and teacher.passes == 1


def test_without_a_teacher_it_says_what_to_pass() -> None:
    batch = Batch(INPUTS, LABELS)
    assert "Batch(inputs, labels, teacher=teacher)" in message_of(lambda: batch.targets)
    objective = RobustStudentObjective(prototype_classifier(DATA))
    assert "the batch needs one" in message_of(lambda: objective(batch))
    assert "such as a Model" in message_of(lambda: Batch(INPUTS, LABELS, teacher=Asked()).teacher_features(["inner"]))


@pytest.mark.parametrize("cached", [True, False])
def test_the_teacher_of_distill_answers_at_any_point_and_is_not_taught(cached: bool) -> None:
    teacher = as_model(Asked(), DATA).train()
    scores = TeacherScores(teacher, cache=False)
    scores.prepare(DATA.training_examples, ahead=cached)
    batch = Batch(INPUTS, LABELS, torch.arange(6), scores.prepared_scores(torch.arange(6)), scores)
    torch.testing.assert_close(batch.targets, teacher.logits(INPUTS))
    points = (INPUTS + 0.1).requires_grad_()
    logits = batch.ask(points)
    torch.autograd.backward(logits.square().sum())
    expected = (INPUTS + 0.1).requires_grad_()
    with frozen(teacher):
        torch.autograd.backward(teacher(expected).square().sum())
    assert points.grad is not None and expected.grad is not None
    torch.testing.assert_close(points.grad, expected.grad)
    assert all(parameter.grad is None and parameter.requires_grad for parameter in teacher.parameters())
    assert teacher.training
    (layer,) = batch.teacher_features(["inner.1"]).values()
    torch.testing.assert_close(layer, batch.targets)


def test_the_loss_is_the_weighted_sum_of_the_means_and_what_is_carried() -> None:
    terms = Terms({"a": torch.tensor([1.0, 3.0]), "b": torch.tensor([2.0, 0.0])}, {"a": 1.0, "b": 0.5})
    assert terms.loss.item() == 2.5
    assert Terms(terms.values, terms.weights, torch.tensor(1.0)).loss.item() == 3.5
