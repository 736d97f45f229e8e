"""The terms of the objective, one value per example each."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from robust_student.core.errors import UserError
from robust_student.core.margins import Form, is_rival, margins, scores, true_score
from robust_student.core.tensors import Labels, Logits, PerExample
from robust_student.objectives.settings import DistillationSettings, ScoreSettings


@dataclass(frozen=True)
class Terms:
    """One training step's terms: named, per example, not yet weighted."""

    values: dict[str, PerExample]
    """Term name -> value of each example."""
    weights: dict[str, float]
    """Term name -> its weight (1 for distillation, C1, C2)."""
    carried: Tensor | None = None
    """Zero in value; carries the gradient of the shared pass, which was taken already (see RobustStudentObjective)."""

    @property
    def loss(self) -> Tensor:
        """The weighted sum of the terms' means over the batch: the number to call `backward()` on."""
        total = torch.stack([self.weights[name] * value.mean() for name, value in self.values.items()]).sum()
        return total if self.carried is None else total + self.carried


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


def score_term(student_logits: Logits, teacher_logits: Logits, labels: Labels, settings: ScoreSettings) -> PerExample:
    """L_score, the numerator of the bound (Guo et al. 2018, objective on prediction scores).

    margin form (bound A): max or mean over j != y of [(T_y - T_j) - (S_y - S_j) + slack]_+;
    teacher form (bound B): [T_y - S_y + slack]_+ on probabilities.
    """
    student, teacher = scores(student_logits, settings.score), scores(teacher_logits, settings.score)
    if settings.form is Form.TEACHER:
        return (true_score(teacher, labels) - true_score(student, labels) + settings.slack).clamp_min(0.0)
    hinge = (margins(teacher, labels) - margins(student, labels) + settings.slack).clamp_min(0.0)
    hinge = hinge.masked_fill(~is_rival(hinge, labels), 0.0)
    return hinge.amax(dim=1) if settings.reduce == "max" else hinge.sum(dim=1) / (hinge.shape[1] - 1)


def secant_slope(margin_start: PerExample, margin_end: PerExample, distance: PerExample) -> PerExample:
    """[m(x) - m(z)]_+^2 / ||z - x||_p^2, the squared slope of the margin between two points; 0 where z = x."""
    apart = distance > 0
    slope = (margin_start - margin_end).clamp_min(0.0) / torch.where(apart, distance, 1.0)
    return torch.where(apart, slope, 0.0).square()


def check_classes(student_logits: Tensor, teacher_logits: Tensor) -> None:
    """Raise UserError where teacher and student disagree on the number of classes."""
    if student_logits.shape[1] != teacher_logits.shape[1]:
        raise UserError(
            f"student has {student_logits.shape[1]} classes, teacher {teacher_logits.shape[1]}: they must agree"
        )
