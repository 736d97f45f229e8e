"""The threat models of a run of measurements, made once from its settings and data."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from robust_student.core.errors import UserError
from robust_student.core.norms import Norm, NormName
from robust_student.core.threat_model import ThreatModel
from robust_student.data.readers.load import Data
from robust_student.evaluation.settings import CertificationSettings, EvaluationSettings
from robust_student.evaluation.trained_for import choose, default_threat, recorded
from robust_student.models.card import ModelCard
from robust_student.models.model import Model

_RELATIVE_BUDGETS = (0.25, 0.5, 1.0, 1.5, 2.0)
"""PGD budgets in units of the norm's radius, where the user gives none."""
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
    words: str
    """How AutoAttack's norm and budget were chosen."""

    @property
    def shown(self) -> ThreatModel | None:
        """The budget of PGD nearest to AutoAttack's in its norm, short of the whole range; None: there is none."""
        target = self.autoattack
        widest = math.inf if self.whole is None or target.norm.p != math.inf else self.whole.budget
        tried = [threat for name, threats in self.pgd.items() if name == target.norm.name for threat in threats]
        growing = sorted((threat for threat in tried if threat.budget < widest), key=lambda threat: threat.budget)
        return min(growing, key=lambda threat: abs(threat.budget - target.budget), default=None)

    @classmethod
    def of(cls, data: Data, settings: EvaluationSettings, models: Mapping[str, Model] | None = None) -> "Threats":
        """Those that the settings name, else those that the runs among `models` were trained for.

        UserError where a budget is larger than the inputs' range allows.
        """
        chosen = choose(models or {}, data, settings.autoattack_norm, settings.autoattack_radius)
        autoattack = chosen.threat
        norms: list[Norm] = []
        pgd: dict[NormName, list[ThreatModel]] = {}
        budgets_by_norm: dict[NormName, tuple[float, ...] | None] = {"linf": settings.pgd_linf, "l2": settings.pgd_l2}
        for name, budgets in budgets_by_norm.items():
            radii = chosen.radii(name)
            largest = autoattack.budget if name == autoattack.norm.name else max(radii, default=None)
            threat = default_threat(data, name) if largest is None else ThreatModel.on(data, name, largest)
            norms.append(threat.norm)
            if budgets is None:
                pgd[name] = _with_radii(_relative(threat, _RELATIVE_BUDGETS), radii)
            else:
                pgd[name] = [threat.at(budget) for budget in dict.fromkeys(budgets)]
                _require_possible(f"pgd_{name}", pgd[name], data.shape)
        _require_possible("autoattack_radius", [autoattack], data.shape)
        whole = None
        if data.input_range.bounded:
            whole = ThreatModel.named("linf", data.input_range.width, data.input_range, data.shape)
        return cls(tuple(norms), pgd, autoattack, whole, chosen.words)


def certified_threats(
    data: Data, settings: CertificationSettings, models: Mapping[str, Model]
) -> tuple[ThreatModel, list[ThreatModel], str]:
    """What `certify` searches with, its budgets, growing, and in words how they were chosen.

    Norm and radius are those that the runs were trained for, else the norm's default radius. UserError where a budget
    is larger than the inputs' range allows.
    """
    chosen = choose(models, data, settings.norm, None)
    threat = chosen.threat
    if settings.budgets is None:
        return threat, _with_radii(_relative(threat, _RELATIVE_RADII), chosen.radii(threat.norm.name)), chosen.words
    budgets = [threat.at(budget) for budget in sorted(set(settings.budgets))]
    _require_possible("budgets", budgets, data.shape)
    return threat, budgets, chosen.words


def threat_of(card: ModelCard, norm: NormName | None, radius: float | None) -> ThreatModel:
    """What a model is attacked with where no data say more: its run's own norm and radius, unless others are given.

    The run's radius counts for its norm alone. UserError where the radius is larger than the inputs' range allows.
    """
    own_norm, own_radius, _ = recorded(card)
    chosen = norm or own_norm or "linf"
    if radius is None and chosen == own_norm:
        radius = own_radius
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


def _with_radii(threats: Sequence[ThreatModel], radii: Sequence[float]) -> list[ThreatModel]:
    """The same and those at the radii that are not among them, growing."""
    budgets = {threat.budget for threat in threats} | set(radii)
    return [threats[0].at(budget) for budget in sorted(budgets)]


def _relative(threat: ThreatModel, factors: Sequence[float]) -> list[ThreatModel]:
    """The same at these shares of its radius, rounded to four digits where they are not the radius itself."""
    return [threat if factor == 1 else threat.at(float(f"{factor * threat.budget:.4g}")) for factor in factors]
