"""What runs were trained to resist: `evaluate` and `certify` follow it where no norm and no radius is named."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from robust_student.core.norms import NormName
from robust_student.core.threat_model import ThreatModel
from robust_student.data.readers.load import Data
from robust_student.models.card import ModelCard
from robust_student.models.model import Model
from robust_student.objectives.methods import is_plain
from robust_student.objectives.settings import ObjectiveSettings

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Chosen:
    """The norm and the radius that are attacked or certified, and why."""

    threat: ThreatModel
    trained: dict[str, ThreatModel]
    """What each run was trained for, by its name; no others."""
    words: str
    """How they were chosen."""

    def radii(self, norm: NormName) -> list[float]:
        """Of all runs in a norm, growing, each once."""
        return sorted({threat.budget for threat in self.trained.values() if threat.norm.name == norm})


def choose(models: Mapping[str, Model], data: Data, norm: NormName | None, radius: float | None) -> Chosen:
    """A norm and a radius that are named; else the norm of the first run, and the largest radius in the norm.

    Only runs that were trained against perturbations count. Where there are none, the norm is linf and the radius the
    norm's default. Runs that were trained for something else are named in a warning.
    """
    trained = {name: threat for name, model in models.items() if (threat := _trained_for(model.card, data)) is not None}
    named = norm is not None or radius is not None
    first: NormName = next((threat.norm.name for threat in trained.values()), "linf")
    chosen_norm = first if norm is None else norm
    usual = default_threat(data, chosen_norm)
    radii = Chosen(usual, trained, "").radii(chosen_norm)
    size = radius if radius is not None else max(radii, default=usual.budget)
    what = f"{chosen_norm} {size:.4g}"
    if radius is not None or (named and not radii):
        words = f"{what}, as given" if radius is not None else f"{what}, the norm's default radius"
    elif not trained:
        words = f"{what}, the default: no run was trained against perturbations"
    else:
        words = f"{what}, what {_names(trained, chosen_norm, size)} trained for"
    listed = ", ".join(f"{name} {threat.norm.name} {threat.budget:.4g}" for name, threat in trained.items())
    if any(threat.norm.name != chosen_norm or threat.budget != size for threat in trained.values()):
        words += f" (the runs: {listed})"
        _log.warning("threat: %s", words)
    return Chosen(usual.at(size), trained, words)


def default_threat(data: Data, norm: NormName) -> ThreatModel:
    """At the norm's default radius, rounded to four digits."""
    threat = ThreatModel.on(data, norm)
    return threat.at(float(f"{threat.budget:.4g}"))


def _names(trained: Mapping[str, ThreatModel], norm: NormName, radius: float) -> str:
    """The runs of this norm and radius, with their verb."""
    names = [name for name, threat in trained.items() if threat.norm.name == norm and threat.budget == radius]
    return f"{', '.join(names)} {'was' if len(names) == 1 else 'were'}"


def recorded(card: ModelCard) -> tuple[NormName | None, float | None, bool]:
    """Norm and radius in the settings of a run, and whether it was trained against perturbations."""
    settings = card.provenance.get("settings")
    own = settings.get("objective") if isinstance(settings, dict) else None
    if not isinstance(own, dict):
        return None, None, False
    own_norm, own_radius = own.get("norm"), own.get("radius")
    trained = ObjectiveSettings.parse({"norm": own_norm or "linf", "radius": own_radius}, "settings of the run")
    return trained.norm, trained.radius, not is_plain(own)


def _trained_for(card: ModelCard, data: Data) -> ThreatModel | None:
    norm, radius, robust = recorded(card)
    if norm is None or not robust:
        return None
    return default_threat(data, norm) if radius is None else ThreatModel.on(data, norm, radius)
