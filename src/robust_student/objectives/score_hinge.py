"""The objective on prediction scores (Guo et al. 2018): the numerator of the bound."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from robust_student.core.margins import Form, Score, is_rival, margins, scores, true_score
from robust_student.core.settings import Settings
from robust_student.core.tensors import Labels, Logits, PerExample
from robust_student.objectives.term import Term, Visit


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


@dataclass(frozen=True)
class ScoreHinge(Term):
    """L_score where the student is trained."""

    name: ClassVar[str] = "score"
    settings: ScoreSettings
    shareable: ClassVar[bool] = True

    def __call__(self, visit: Visit) -> PerExample:
        """The value of each example."""
        return score_term(visit.logits, visit.batch.targets, visit.batch.labels, self.settings)


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
