"""TRADES as distillation (Zhang et al. 2019): the student's answers near x stay those that it gives at x."""

from dataclasses import dataclass
from typing import ClassVar

from pydantic import Field

from robust_student.core.settings import Settings
from robust_student.core.tensors import PerExample
from robust_student.objectives.distillation import divergence
from robust_student.objectives.settings import ObjectiveSettings
from robust_student.objectives.term import GradientMode, Term, Visit


class TradesSettings(Settings):
    """KL(S(x) || S(z)), z found by K ascent steps on it from a random point of the ball (Zhang et al. 2019, eq. 5)."""

    weight: float = Field(6.0, ge=0)
    """beta, the paper's 1 / lambda."""
    steps: int = Field(10, ge=1)
    """K: ascent steps, each one forward-backward pass."""
    step: float | None = Field(None, gt=0)
    """Size of an ascent step in units of R; None: 1.25 for K = 1, else max(1.5 / K, 0.25)."""


class TradesMethod(ObjectiveSettings):
    """L = L_KD + beta KL(S(x) || S(z)): TRADES with the teacher's scores in place of the labels."""

    trades: TradesSettings = TradesSettings()

    @property
    def strength(self) -> float:
        """beta."""
        return self.trades.weight

    def scaled(self, factor: float) -> ObjectiveSettings:
        """With beta times `factor`, too."""
        trades = self.trades.model_copy(update={"weight": factor * self.trades.weight})
        return super().scaled(factor).model_copy(update={"trades": trades})

    def terms(self) -> tuple[Term, ...]:
        """Those of the sum, and TRADES."""
        return (*super().terms(), Trades(self.trades.weight, self.trades, self.gradient_mode))


@dataclass(frozen=True)
class Trades(Term):
    """KL(S(x) || S(z)), whose gradient flows through both of its passes."""

    name: ClassVar[str] = "trades"
    uses_targets: ClassVar[bool] = False
    settings: TradesSettings
    mode: GradientMode

    @property
    def over_ball(self) -> bool:
        """Always."""
        return True

    def __call__(self, visit: Visit) -> PerExample:
        """The value of each example."""
        clean = visit.logits
        target = clean if self.mode == "train" else visit.student.quiet(True)(visit.batch.inputs)
        target = target.detach()
        reached = visit.climb(
            lambda _, logits: divergence(logits, target, 1.0),
            visit.random_points(),
            steps=self.settings.steps,
            step=self.settings.step,
            mode=self.mode,
        )
        return divergence(visit.student(reached), clean, 1.0)
