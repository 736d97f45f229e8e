"""The threat models of a run of measurements, made once from its settings and data."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from robust_student.core.errors import UserError
from robust_student.core.norms import Norm, NormName
from robust_student.core.threat_model import ThreatModel
from robust_student.data.readers.load import Data
from robust_student.evaluation.settings import CertificationSettings, EvaluationSettings
from robust_student.models.card import ModelCard
from robust_student.objectives.settings import ObjectiveSettings

_RELATIVE_BUDGETS = (0.25, 0.5, 1.0, 1.5, 2.0)
"""PGD budgets in units of the norm's default radius, where the user gives none."""
_RELATIVE_RADII = (0.2, 0.5, 1.0)
"""The same of the budgets of `certify`."""


@dataclass(frozen=True, eq=False)
class Threats:
    """What `evaluate` attacks with."""

    norms: tuple[Norm, ...]
    """In which radii are estimated."""
    pgd: dict[NormName, list[ThreatModel]]
    """The budgets of PGD by norm."""
    autoattack: ThreatModel
    """Of AutoAttack, of further attacks and of the masking checks, whether AutoAttack is run or not."""
    whole: ThreatModel | None
    """Linf, as wide as the range, so that no input is out of reach; None: the inputs have no range."""

    @property
    def shown(self) -> ThreatModel | None:
        """The budget of PGD nearest to AutoAttack's in its norm, short of the whole range; None: there is none."""
        target = self.autoattack
        widest = math.inf if self.whole is None or target.norm.p != math.inf else self.whole.budget
        tried = [threat for name, threats in self.pgd.items() if name == target.norm.name for threat in threats]
        growing = sorted((threat for threat in tried if threat.budget < widest), key=lambda threat: threat.budget)
        return min(growing, key=lambda threat: abs(threat.budget - target.budget), default=None)

    @classmethod
    def of(cls, data: Data, settings: EvaluationSettings) -> "Threats":
        """UserError where a budget is larger than the inputs' range allows."""
        autoattack = ThreatModel.on(data, settings.autoattack_norm, settings.autoattack_radius)
        if settings.autoattack_radius is None:
            (autoattack,) = _relative(autoattack, (1.0,))
        norms: list[Norm] = []
        pgd: dict[NormName, list[ThreatModel]] = {}
        budgets_by_norm: dict[NormName, tuple[float, ...] | None] = {"linf": settings.pgd_linf, "l2": settings.pgd_l2}
        for name, budgets in budgets_by_norm.items():
            threat = ThreatModel.on(data, name)
            norms.append(threat.norm)
            if budgets is None:
                pgd[name] = _relative(threat, _RELATIVE_BUDGETS)
            else:
                pgd[name] = [threat.at(budget) for budget in dict.fromkeys(budgets)]
                _require_possible(f"pgd_{name}", pgd[name], data.shape)
        _require_possible("autoattack_radius", [autoattack], data.shape)
        whole = None
        if data.input_range.bounded:
            whole = ThreatModel.named("linf", data.input_range.width, data.input_range, data.shape)
        return cls(tuple(norms), pgd, autoattack, whole)


def certified_threats(data: Data, settings: CertificationSettings) -> tuple[ThreatModel, list[ThreatModel]]:
    """What `certify` searches with, at the norm's default radius, and its budgets, growing.

    UserError where a budget is larger than the inputs' range allows.
    """
    threat = ThreatModel.on(data, settings.norm)
    if settings.budgets is None:
        return threat, _relative(threat, _RELATIVE_RADII)
    budgets = [threat.at(budget) for budget in sorted(set(settings.budgets))]
    _require_possible("budgets", budgets, data.shape)
    return threat, budgets


def threat_of(card: ModelCard, norm: NormName | None, radius: float | None) -> ThreatModel:
    """What a model is attacked with where no data say more: its run's own norm and radius, unless others are given.

    The run's radius counts for its norm alone. UserError where the radius is larger than the inputs' range allows.
    """
    settings = card.provenance.get("settings")
    own = settings.get("objective") if isinstance(settings, dict) else None
    own_norm, own_radius = (own.get("norm"), own.get("radius")) if isinstance(own, dict) else (None, None)
    trained = ObjectiveSettings.parse({"norm": own_norm or "linf", "radius": own_radius}, "settings of the run")
    chosen = norm or trained.norm
    if radius is None and chosen == trained.norm:
        radius = trained.radius
    threat = ThreatModel.named(chosen, radius, card.range, card.input_shape)
    _require_possible("radius", [threat], card.input_shape)
    return threat


def _require_possible(option: str, threats: Iterable[ThreatModel], shape: Sequence[int]) -> None:
    """Raise UserError where a radius exceeds the largest change that the inputs' range allows: other units, say."""
    for threat in threats:
        whole, limits = threat.widest(shape), threat.input_range
        if threat.budget > whole * (1 + 1e-6):
            raise UserError(
                f"{option}: {threat.budget:g} is more than any change inside the inputs' range "
                f"[{limits.lower:g}, {limits.upper:g}] ({threat.norm.name}, at most {whole:g}); radii are in units of "
                "the inputs, where 8 of 255 grey levels are 0.0314"
            )


def _relative(threat: ThreatModel, factors: Sequence[float]) -> list[ThreatModel]:
    """The same at these shares of its radius, rounded to four digits."""
    return [threat.at(float(f"{factor * threat.budget:.4g}")) for factor in factors]
