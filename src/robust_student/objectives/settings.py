"""Settings of the objective: a group for each term, and the terms that they ask for."""

from pydantic import model_validator

from robust_student.core.norms import NormName
from robust_student.core.settings import Radius, Settings
from robust_student.objectives.certified import Certified, CertifiedSettings
from robust_student.objectives.distillation import Distillation, DistillationSettings
from robust_student.objectives.gradient_penalties import GradientPenalty, GradientSettings
from robust_student.objectives.noise import NoiseSettings
from robust_student.objectives.score_hinge import ScoreHinge, ScoreSettings
from robust_student.objectives.secant import Secant, SecantSettings
from robust_student.objectives.term import GradientMode, Term


class ObjectiveSettings(Settings):
    """L = L_KD + C1 L_score + C2 L_gradient, the last at a point (gradient) or over the ball (secant, certified)."""

    norm: NormName = "linf"
    """Norm of the perturbations to resist."""
    radius: Radius | None = None
    """R of the ball, in input units of the norm (pixels in [0, 1]), such as 0.03 or 8/255; None: chosen by norm and
    input range."""
    distillation: DistillationSettings = DistillationSettings()
    score: ScoreSettings = ScoreSettings()
    gradient: GradientSettings = GradientSettings()
    secant: SecantSettings = SecantSettings()
    certified: CertifiedSettings = CertifiedSettings()
    noise: NoiseSettings = NoiseSettings()
    gradient_mode: GradientMode = "train"
    """Mode of the student (BatchNorm, dropout) during gradient terms and ascent (docs/objectives.md)."""

    @model_validator(mode="after")
    def _consistent(self) -> "ObjectiveSettings":
        norm = self.gradient.norm or self.norm
        if self.gradient.weight > 0 and self.gradient.kind == "projection" and norm != "l2":
            raise ValueError(f"gradient.kind = projection measures a Frobenius norm: it needs norm = l2, not {norm}")
        if self.shared_pass and self.gradient_mode == "eval":
            raise ValueError("gradient_mode = eval cannot share the training pass: set secant.shared = false")
        shared_ascent = self.persistent and self.secant.shared and self.secant.form == "divergence"
        if self.secant.weight > 0 and self.secant.steps == 0 and not shared_ascent:
            needs = "secant.start = persistent, secant.shared = true and secant.form = divergence"
            raise ValueError(f"secant.steps = 0 needs {needs}")
        if self.secant.weight > 0 and self.secant.form == "slope" and self.noise.share > 0:
            raise ValueError("noise.share > 0 needs secant.form = divergence: a slope begins at the input itself")
        return self

    @property
    def shared_pass(self) -> bool:
        """Whether the student is trained where the ascent starts and that pass also gives its direction."""
        return self.secant.weight > 0 and self.secant.shared and self.secant.start != "inputs"

    @property
    def persistent(self) -> bool:
        """Whether the points that an ascent reaches are kept for the example's next visit."""
        return self.secant.weight > 0 and self.secant.start == "persistent"

    @property
    def has_ball(self) -> bool:
        """Whether the radius changes what is learnt, so that an accuracy floor can move it."""
        return any(term.over_ball for term in self.terms() if term.weight > 0)

    @property
    def passes(self) -> int:
        """Forward and backward passes of a step, about: one, and one for each step of an ascent."""
        return 1 + (self.secant.steps if self.secant.weight > 0 else 0)

    @property
    def strength(self) -> float:
        """The weight that a search moves: that of a term against perturbations; 0 where there is none."""
        return self.secant.weight or self.gradient.weight or self.certified.weight

    def scaled(self, factor: float) -> "ObjectiveSettings":
        """The same with the weights of all terms against perturbations times `factor`; 0 leaves them and noise out.

        A method with such a term of its own scales it here, and names its weight in `strength`.
        """
        groups: dict[str, GradientSettings | SecantSettings | CertifiedSettings]
        groups = {"gradient": self.gradient, "secant": self.secant, "certified": self.certified}
        update = {name: group.model_copy(update={"weight": factor * group.weight}) for name, group in groups.items()}
        noise = self.noise if factor > 0 else self.noise.model_copy(update={"share": 0.0})
        return self.model_copy(update={**update, "noise": noise})

    def terms(self) -> tuple[Term, ...]:
        """The terms of the objective in the order in which they are computed; those of weight 0 are left out.

        A method with a term of its own adds it: `(*super().terms(), ...)` (CONTRIBUTING, "Add an objective").
        """
        mode = self.gradient_mode
        return (
            Distillation(1.0, self.distillation),
            ScoreHinge(self.score.weight, self.score),
            GradientPenalty(self.gradient.weight, self.gradient, mode),
            Secant(self.secant.weight, self.secant, self.distillation.temperature, mode),
            Certified(self.certified.weight, self.certified, self.distillation, self.score),
        )
