"""The gradient objective over the whole ball: climb, then penalise what happened on the way."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from pydantic import Field

from robust_student.attacks.ascent import Uphill
from robust_student.core.margins import Score, margin, scores
from robust_student.core.settings import Settings
from robust_student.core.tensors import Inputs, PerExample
from robust_student.objectives.batch import Batch
from robust_student.objectives.distillation import divergence
from robust_student.objectives.term import GradientMode, Start, Term, Visit


class SecantSettings(Settings):
    """The gradient objective over the whole ball: K ascent steps, then penalise what happened on the way."""

    weight: float = Field(0.0, ge=0)
    """C2; 0 leaves the term out."""
    form: Literal["slope", "divergence"] = "divergence"
    """slope: [m(x) - m(z)]_+^2 / ||z - x||_p^2; divergence: t^2 KL(T(x)/t || S(z)/t)."""
    ascent: Literal["drop", "divergence"] = "divergence"
    """What the ascent raises: the drop of the margin, or the divergence from the teacher's scores at x."""
    score: Score = Score.LOGIT
    """slope, drop: margin of logits or of probabilities."""
    start: Start = "random"
    """Where the ascent starts: at x, at a uniformly random point of the ball, or where the last visit of the same
    example ended."""
    steps: int = Field(1, ge=0)
    """K: ascent steps, each one forward-backward pass. 0 needs a persistent start: the student learns at the
    start alone, and the gradient of that pass moves the start of the next visit."""
    step: float | None = Field(None, gt=0)
    """Size of an ascent step in units of R; None: 1.25 for K = 1, else max(1.5 / K, 0.25); with a persistent start 0.75
    for K = 0, 0.5 for K = 1, else max(1 / K, 0.25)."""
    shared: bool = True
    """Shared pass: train at the start instead of at x; the same pass gives the first ascent direction."""


@dataclass(frozen=True)
class Secant(Term):
    """What happens between where the student is trained and the point z that an ascent reaches."""

    name: ClassVar[str] = "secant"
    settings: SecantSettings
    temperature: float
    mode: GradientMode
    shareable: ClassVar[bool] = True

    @property
    def over_ball(self) -> bool:
        """Always."""
        return True

    @property
    def slope(self) -> bool:
        """Whether it is the slope form."""
        return self.settings.form == "slope"

    @property
    def full_precision(self) -> bool:
        """A slope is a small difference: both of its ends are computed alike, in full precision."""
        return self.slope

    @property
    def compilable(self) -> bool:
        """Not the slope form, which traverses a pass twice."""
        return not self.slope

    @property
    def step(self) -> float | None:
        """Size of a step in units of R; None: the default of `ascend`."""
        if self.settings.step is None and self.settings.start == "persistent":
            steps = self.settings.steps
            return {0: 0.75, 1: 0.5}.get(steps) or max(1 / steps, 0.25)
        return self.settings.step

    def __call__(self, visit: Visit, first_gradient: Inputs | None = None) -> PerExample:
        """The value of each example.

        `first_gradient`, of a shared pass, is the gradient of what the ascent raises at `visit.points`.
        """
        inputs, labels = visit.batch.inputs, visit.batch.labels
        evaluation = self.mode == "eval"
        if self.slope:
            start = visit.student.quiet(True)(inputs) if evaluation else visit.logits
        reached = self.reach(visit, first_gradient)
        if not self.slope:
            return divergence(visit.student(reached), visit.batch.targets, self.temperature)
        end = visit.student.quiet(True)(reached) if evaluation else visit.student.differentiable(reached)
        return _secant_slope(
            margin(scores(start, self.settings.score), labels),
            margin(scores(end, self.settings.score), labels),
            visit.threat.norm.size(reached - visit.points.detach()),
        )

    def at_start(self, visit: Visit) -> PerExample:
        """The value of each example for K = 0: z is where the training pass is made."""
        return divergence(visit.logits, visit.batch.targets, self.temperature)

    def reach(self, visit: Visit, first_gradient: Inputs | None = None) -> Inputs:
        """The points that the ascent reaches; with a persistent start they are kept for the next visit."""
        reached = visit.climb(
            self.uphill(visit.batch),
            visit.start(self.settings.start),
            steps=max(self.settings.steps, 1),
            step=self.step,
            mode=self.mode,
            first_gradient=first_gradient,
        )
        if self.settings.start == "persistent":
            # Without a further pass a noisy example has no gradient at its kept point: that point stays.
            visit.keep(reached, but_noisy=self.settings.steps == 0)
        return reached

    def uphill(self, batch: Batch) -> Uphill:
        """What the ascent raises."""
        if self.settings.ascent == "drop":
            return lambda _, logits: -margin(scores(logits, self.settings.score), batch.labels)
        return lambda _, logits: divergence(logits, batch.targets, self.temperature)


def _secant_slope(margin_start: PerExample, margin_end: PerExample, distance: PerExample) -> PerExample:
    """[m(x) - m(z)]_+^2 / ||z - x||_p^2, the squared slope of the margin between two points; 0 where z = x."""
    apart = distance > 0
    slope = (margin_start - margin_end).clamp_min(0.0) / torch.where(apart, distance, 1.0)
    return torch.where(apart, slope, 0.0).square()
