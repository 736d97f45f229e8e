"""The table of methods: named starting points for the objective."""

from robust_student.core.margins import Score
from robust_student.objectives.certified import CertifiedSettings
from robust_student.objectives.distillation import DistillationSettings
from robust_student.objectives.gradient_penalties import GradientSettings
from robust_student.objectives.score_hinge import ScoreSettings
from robust_student.objectives.secant import SecantSettings
from robust_student.objectives.settings import ObjectiveSettings

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
