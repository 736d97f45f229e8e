"""The two objectives of Guo et al. 2018 on certified margins: a bound that holds everywhere in the ball."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from pydantic import Field

from robust_student.bounds.ball import Ball
from robust_student.bounds.propagation import margin_bounds
from robust_student.core.margins import margins
from robust_student.core.settings import Settings
from robust_student.core.tensors import PerExample
from robust_student.objectives.distillation import DistillationSettings, distillation_term
from robust_student.objectives.score_hinge import ScoreSettings, score_term
from robust_student.objectives.term import Term, Visit


class CertifiedSettings(Settings):
    """The same two objectives on certified margins: lower bounds lb_j of m_j(z) over the ball, by intervals.

    The bounds are those of the network in evaluation mode. R grows linearly from 0 after a warm-up (Gowal et al. 2018,
    section 4): a network that has learnt nothing yet answers large intervals by becoming constant.
    """

    weight: float = Field(0.0, ge=0)
    """C2; 0 leaves the term out."""
    form: Literal["divergence", "score", "slope"] = "divergence"
    """divergence: L_KD with the certified margins in place of the student's; score: L_score with them;
    slope: max_j [m_j(x) - lb_j]_+^2 / R^2, the squared certified slope."""
    warmup: float = Field(0.2, ge=0, le=1)
    """Share of the training steps after which R begins to grow."""
    ramp: float = Field(0.5, ge=0, le=1)
    """Share of the training steps during which R grows to its full size."""

    def grown(self, progress: float) -> float:
        """Share of R to certify at this share of the training."""
        since = progress - self.warmup
        return min(1.0, max(0.0, since / self.ramp)) if self.ramp > 0 else float(since >= 0)


@dataclass(frozen=True)
class Certified(Term):
    """One of the two objectives on interval bounds, which carry the gradient to the student's parameters."""

    name: ClassVar[str] = "certified"
    settings: CertifiedSettings
    distillation: DistillationSettings
    score: ScoreSettings
    shareable: ClassVar[bool] = True

    @property
    def over_ball(self) -> bool:
        """Always."""
        return True

    @property
    def compilable(self) -> bool:
        """Never: the student is traced."""
        return False

    def __call__(self, visit: Visit) -> PerExample:
        """The value of each example."""
        batch = visit.batch
        inputs, labels = batch.inputs, batch.labels
        layers = visit.student.graph(inputs.shape[1:]).layers()
        radius = self.settings.grown(batch.progress) * visit.threat.budget
        bounds = margin_bounds(layers, Ball(inputs, visit.threat.at(radius)), labels, "interval")
        if self.settings.form == "divergence":
            return distillation_term(-bounds, batch.targets, labels, self.distillation)
        if self.settings.form == "score":
            return score_term(-bounds, batch.targets, labels, self.score)
        drop = (margins(layers(inputs), labels) - bounds).amax(dim=1).clamp_min(0.0)
        return (drop / radius).square() if radius > 0 else torch.zeros_like(drop)
