"""Adaptive adversarial distillation, AdaAD (Huang et al. 2023): the teacher is asked wherever the student is."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from pydantic import Field

from robust_student.core.settings import Settings
from robust_student.core.tensors import PerExample
from robust_student.objectives.distillation import check_classes, divergence
from robust_student.objectives.settings import ObjectiveSettings
from robust_student.objectives.term import GradientMode, Term, Visit


class AdaADSettings(Settings):
    """KL(T(z) || S(z)) at the point z that K ascent steps on it reach from a random point of the ball.

    Huang et al. 2023, "Boosting Accuracy and Robustness of Student Models via Adaptive Adversarial Distillation".
    """

    share: float = Field(1.0, gt=0, le=1)
    """alpha: weight of the term at z; 1 - alpha is that of L_KD at x, which 1, the authors' value, leaves out."""
    steps: int = Field(10, ge=1)
    """K: ascent steps, each one forward-backward pass of the student and one of the teacher."""
    step: float | None = Field(None, gt=0)
    """Size of an ascent step in units of R; None: 1.25 for K = 1, else max(1.5 / K, 0.25)."""


class AdaADMethod(ObjectiveSettings):
    """L = alpha t^2 KL(T(z)/t || S(z)/t) + (1 - alpha) L_KD(x), t the temperature of L_KD."""

    adaad: AdaADSettings = AdaADSettings()

    @property
    def strength(self) -> float:
        """alpha."""
        return self.adaad.share

    def scaled(self, factor: float) -> ObjectiveSettings:
        """With alpha : 1 - alpha times `factor`, too, so that alpha = 1 stays 1 for every factor but 0."""
        weight, rest = factor * self.adaad.share, 1 - self.adaad.share
        share = weight / (weight + rest) if weight > 0 else 0.0
        adaad = self.adaad.model_copy(update={"share": share})
        return super().scaled(factor).model_copy(update={"adaad": adaad})

    def terms(self) -> tuple[Term, ...]:
        """Those of the sum, L_KD with the rest of the weight, and AdaAD."""
        clean, *others = super().terms()
        share = self.adaad.share
        own = AdaAD(share, self.adaad, self.distillation.temperature, self.gradient_mode)
        return (replace(clean, weight=1 - share), *others, own)


@dataclass(frozen=True)
class AdaAD(Term):
    """KL(T(z) || S(z)); z is searched through both networks, the student learns alone."""

    name: ClassVar[str] = "adaad"
    uses_targets: ClassVar[bool] = False
    settings: AdaADSettings
    temperature: float
    mode: GradientMode

    @property
    def over_ball(self) -> bool:
        """Always."""
        return True

    def __call__(self, visit: Visit) -> PerExample:
        """The value of each example; UserError where teacher and student disagree on the number of classes."""
        batch = visit.batch
        reached = visit.climb(
            lambda points, logits: divergence(logits, batch.ask(points), self.temperature),
            visit.random_points(),
            steps=self.settings.steps,
            step=self.settings.step,
            mode=self.mode,
        )
        with torch.no_grad():
            target = batch.ask(reached)
        logits = visit.student(reached)
        check_classes(logits, target)
        return divergence(logits, target, self.temperature)
