"""The table of methods: named starting points for the objective."""

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import Field, create_model

from robust_student.core.margins import Score
from robust_student.core.settings import Settings
from robust_student.objectives.adaad import AdaADMethod
from robust_student.objectives.certified import CertifiedSettings
from robust_student.objectives.distillation import DistillationSettings
from robust_student.objectives.gradient_penalties import GradientSettings
from robust_student.objectives.noise import NoiseSettings
from robust_student.objectives.score_hinge import ScoreSettings
from robust_student.objectives.secant import SecantSettings
from robust_student.objectives.settings import ObjectiveSettings
from robust_student.objectives.trades import TradesMethod

_Kind = TypeVar("_Kind", bound=Settings)
_DISTILLATION = DistillationSettings(temperature=4.0, soft_weight=0.9)
"""Of plain distillation and of every method that adds a term to it."""
_MILD = DistillationSettings(temperature=2.0, soft_weight=0.9)
"""Of the methods that keep perturbations."""
METHODS: dict[str, ObjectiveSettings] = {
    "kd": ObjectiveSettings(distillation=_DISTILLATION),
    "score": ObjectiveSettings(
        distillation=_DISTILLATION,
        score=ScoreSettings(weight=0.1, reduce="mean"),
    ),
    "exact": ObjectiveSettings(
        norm="l2",
        distillation=_DISTILLATION,
        score=ScoreSettings(weight=0.1, reduce="mean"),
        gradient=GradientSettings(weight=3.0),
    ),
    "direct": ObjectiveSettings(
        norm="l2",
        distillation=_DISTILLATION,
        score=ScoreSettings(weight=0.1, reduce="mean"),
        gradient=GradientSettings(weight=1.0, kind="direct", target=2.0),
    ),
    "projection": ObjectiveSettings(
        norm="l2",
        distillation=_DISTILLATION,
        score=ScoreSettings(weight=0.1, reduce="mean"),
        gradient=GradientSettings(weight=0.1, kind="projection", score=Score.LOGIT),
    ),
    "persistent": ObjectiveSettings(
        distillation=_MILD, secant=SecantSettings(weight=1.0, start="persistent"), noise=NoiseSettings(share=0.5)
    ),
    "one-pass": ObjectiveSettings(
        distillation=_MILD,
        secant=SecantSettings(weight=1.0, start="persistent", steps=0),
        noise=NoiseSettings(share=0.5),
    ),
    "secant": ObjectiveSettings(secant=SecantSettings(weight=5.0)),
    "secant-exact": ObjectiveSettings(
        secant=SecantSettings(weight=5.0), gradient=GradientSettings(weight=10.0, norm="l2", at="ball")
    ),
    "certified": ObjectiveSettings(certified=CertifiedSettings(weight=2.0)),
    "trades": TradesMethod(),
    "adaad": AdaADMethod(),
}
"""Named starting points; every setting of the chosen one can still be changed.

A method with terms of its own is an instance of its own subclass of `ObjectiveSettings`.
"""


def kind_of(values: Any) -> type[ObjectiveSettings]:
    """The class that reads plain values: that of the method whose own group they name, else `ObjectiveSettings`."""
    own = set(values) - set(ObjectiveSettings.model_fields) if isinstance(values, Mapping) else set()
    kinds = (type(settings) for settings in METHODS.values())
    return next((kind for kind in kinds if own & set(kind.model_fields)), ObjectiveSettings)


def is_plain(objective: Mapping[str, Any]) -> bool:
    """Whether an objective's recorded values are plain distillation's: no other term has a weight, and no noise."""
    groups = [group for name, group in objective.items() if name != "distillation" and isinstance(group, Mapping)]
    return not any(group.get("weight") or group.get("share") for group in groups)


def with_objective(kind: type[_Kind], settings: ObjectiveSettings) -> type[_Kind]:
    """`kind`, whose field `objective` is a group of settings, with the class and the values of a method's settings."""
    field = kind.model_fields["objective"]
    if field.annotation is type(settings):
        return kind
    objective: Any = (Annotated[type(settings), Field(json_schema_extra=field.json_schema_extra)], settings)
    return create_model(kind.__name__, __base__=kind, __doc__=kind.__doc__, objective=objective)
