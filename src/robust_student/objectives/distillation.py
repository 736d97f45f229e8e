"""The distillation term: the student answers like its teacher."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from robust_student.core.errors import UserError
from robust_student.core.settings import Settings
from robust_student.core.tensors import Labels, Logits, PerExample
from robust_student.objectives.term import Term, Visit


class DistillationSettings(Settings):
    """L_KD = (1 - a) CE(S, y) + a t^2 KL(T/t || S/t), Hinton et al. 2015."""

    temperature: float = Field(1.0, gt=0)
    """Temperature t of the softened scores; also used by the secant's divergence."""
    soft_weight: float = Field(1.0, ge=0, le=1)
    """Weight a of the teacher's scores; 1 - a goes to the labels."""


@dataclass(frozen=True)
class Distillation(Term):
    """L_KD where the student is trained."""

    name: ClassVar[str] = "distillation"
    settings: DistillationSettings
    shareable: ClassVar[bool] = True

    def __call__(self, visit: Visit) -> PerExample:
        """The value of each example; UserError where teacher and student disagree on the number of classes."""
        check_classes(visit.logits, visit.batch.targets)
        return distillation_term(visit.logits, visit.batch.targets, visit.batch.labels, self.settings)


def divergence(student_logits: Logits, teacher_logits: Logits, temperature: float) -> PerExample:
    """t^2 KL(T/t || S/t): divergence of the student's softened scores from the teacher's, in nats (Hinton 2015)."""
    student = (student_logits / temperature).log_softmax(dim=1)
    teacher = (teacher_logits / temperature).log_softmax(dim=1)
    return temperature**2 * functional.kl_div(student, teacher, reduction="none", log_target=True).sum(dim=1)


def distillation_term(
    student_logits: Logits, teacher_logits: Logits, labels: Labels, settings: DistillationSettings
) -> PerExample:
    """L_KD = (1 - a) CE(S, y) + a t^2 KL(T/t || S/t), Hinton et al. 2015."""
    soft = settings.soft_weight
    total = torch.zeros_like(student_logits[:, 0])
    if soft > 0:
        total = total + soft * divergence(student_logits, teacher_logits, settings.temperature)
    if soft < 1:
        total = total + (1 - soft) * functional.cross_entropy(student_logits, labels, reduction="none")
    return total


def check_classes(student_logits: Tensor, teacher_logits: Tensor) -> None:
    """Raise UserError where teacher and student disagree on the number of classes."""
    if student_logits.shape[1] != teacher_logits.shape[1]:
        raise UserError(
            f"student has {student_logits.shape[1]} classes, teacher {teacher_logits.shape[1]}: they must agree"
        )
