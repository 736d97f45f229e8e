"""Settings of the objective, and the methods: named starting points for it."""

from typing import Literal

from pydantic import (
    Field,
    model_validator,
)

from robust_student.core.margins import Form, Score
from robust_student.core.norms import NormName
from robust_student.core.settings import Settings


class DistillationSettings(Settings):
    """L_KD = (1 - a) CE(S, y) + a t^2 KL(T/t || S/t), Hinton et al. 2015."""

    temperature: float = Field(1.0, gt=0)
    """Temperature t of the softened scores; also used by the secant's divergence."""
    soft_weight: float = Field(1.0, ge=0, le=1)
    """Weight a of the teacher's scores; 1 - a goes to the labels."""


class ScoreSettings(Settings):
    """L_score: hinge that asks the student's margin (or true score) to be at least the teacher's."""

    weight: float = Field(0.0, ge=0)
    """C1; 0 leaves the term out."""
    form: Form = Form.MARGIN
    """margin: bound A, [(T_y - T_j) - (S_y - S_j) + slack]_+; teacher: bound B, [T_y - S_y + slack]_+."""
    score: Score = Score.LOGIT
    """What S and T mean; the teacher form needs probability."""
    reduce: Literal["max", "mean"] = "max"
    """Over the classes j != y (margin form)."""
    slack: float = 0.0
    """How far the student must exceed the teacher, in score units."""

    @model_validator(mode="after")
    def _teacher_form_needs_probabilities(self) -> "ScoreSettings":
        if self.form is Form.TEACHER and self.score is Score.LOGIT:
            raise ValueError("the teacher form is empty on logits (a constant satisfies it): use score = probability")
        return self


class GradientSettings(Settings):
    """L_gradient at a point: keep the slope of the student's confidence small (double backward)."""

    weight: float = Field(0.0, ge=0)
    """C2; 0 leaves the term out. Meaningful per norm and input size only (docs/objectives.md)."""
    kind: Literal["exact", "direct", "projection"] = "exact"
    """exact: squared dual norm of the gradient; direct: hinge on the estimated radius; projection: random-projection
    Jacobian (l2 only)."""
    form: Form = Form.TEACHER
    """exact: slope of the margin (bound A) or of the true class's score (bound B)."""
    score: Score = Score.PROBABILITY
    """exact, projection: slope of logits or of probabilities."""
    norm: NormName | None = None
    """Norm whose dual measures the slope; None: the objective's. l2 suits random noise: sigma^2 ||grad S||_2^2 is what
    noise of that variance does to S, to first order."""
    at: Literal["input", "ball"] = "input"
    """Where the slope is taken: at x, or at a point drawn uniformly in the ball of radius R around it."""
    target: float = Field(1.0, gt=0)
    """direct: the estimated radius to reach, in units of the norm."""
    projections: int = Field(1, ge=1)
    """projection: random directions per step."""


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
    steps: int = Field(1, ge=1)
    """K: ascent steps, each one forward-backward pass."""
    step: float | None = Field(None, gt=0)
    """Size of an ascent step in units of R; None: 1.25 for K = 1, else max(1.5 / K, 0.25)."""
    random_start: bool = True
    """Start at a uniformly random point of the ball instead of at x."""
    shared: bool = True
    """Shared pass: train at the random start instead of at x; the same pass gives the first ascent direction."""


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


class ObjectiveSettings(Settings):
    """L = L_KD + C1 L_score + C2 L_gradient, the last at a point (gradient) or over the ball (secant, certified)."""

    norm: NormName = "linf"
    """Norm of the perturbations to resist."""
    radius: float | None = Field(None, gt=0)
    """R of the ball, in input units of the norm (pixels in [0, 1]); None: default per norm and input range."""
    distillation: DistillationSettings = DistillationSettings()
    score: ScoreSettings = ScoreSettings()
    gradient: GradientSettings = GradientSettings()
    secant: SecantSettings = SecantSettings()
    certified: CertifiedSettings = CertifiedSettings()
    gradient_mode: Literal["train", "eval"] = "train"
    """Mode of the student (BatchNorm, dropout) during gradient terms and ascent (docs/objectives.md)."""

    @model_validator(mode="after")
    def _consistent(self) -> "ObjectiveSettings":
        norm = self.gradient.norm or self.norm
        if self.gradient.weight > 0 and self.gradient.kind == "projection" and norm != "l2":
            raise ValueError(f"gradient.kind = projection measures a Frobenius norm: it needs norm = l2, not {norm}")
        if self.shared_pass and self.gradient_mode == "eval":
            raise ValueError("gradient_mode = eval cannot share the training pass: set secant.shared = false")
        return self

    @property
    def shared_pass(self) -> bool:
        """Whether the student is trained at the random start and that pass also starts the ascent."""
        return self.secant.weight > 0 and self.secant.shared and self.secant.random_start


METHODS: dict[str, ObjectiveSettings] = {
    "kd": ObjectiveSettings(distillation=DistillationSettings(temperature=4.0, soft_weight=0.9)),
    "score": ObjectiveSettings(
        distillation=DistillationSettings(temperature=4.0, soft_weight=0.9),
        score=ScoreSettings(weight=0.1, reduce="mean"),
    ),
    "exact": ObjectiveSettings(
        norm="l2",
        distillation=DistillationSettings(temperature=4.0, soft_weight=0.9),
        score=ScoreSettings(weight=0.1, reduce="mean"),
        gradient=GradientSettings(weight=3.0),
    ),
    "direct": ObjectiveSettings(
        norm="l2",
        distillation=DistillationSettings(temperature=4.0, soft_weight=0.9),
        score=ScoreSettings(weight=0.1, reduce="mean"),
        gradient=GradientSettings(weight=1.0, kind="direct", target=2.0),
    ),
    "projection": ObjectiveSettings(
        norm="l2",
        distillation=DistillationSettings(temperature=4.0, soft_weight=0.9),
        score=ScoreSettings(weight=0.1, reduce="mean"),
        gradient=GradientSettings(weight=0.1, kind="projection", score=Score.LOGIT),
    ),
    "secant": ObjectiveSettings(secant=SecantSettings(weight=5.0)),
    "secant-exact": ObjectiveSettings(
        secant=SecantSettings(weight=5.0), gradient=GradientSettings(weight=10.0, norm="l2", at="ball")
    ),
    "certified": ObjectiveSettings(certified=CertifiedSettings(weight=2.0)),
}
"""Named starting points; every dial of the chosen one can still be changed."""
