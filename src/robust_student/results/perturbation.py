"""What was done to an input before a model saw it: the text that rows and records carry, with its meaning."""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

Family = Literal["clean", "noise", "corruption", "attack", "radius", "agreement", "masking", "other"]
"""Clean, noise at an SNR, a common corruption, an attack at a budget, a radius measured at the clean input, whether
two models agree in a ball, a check of the masking verdict; anything else."""
Meaning = Literal["decision", "confidence"]
"""r_A and r_B."""
NORMS = {"linf": "L\u221e", "l2": "L2", "l1": "L1"}
"""How a norm is written for people."""
_NORM = "|".join(NORMS)
_FORMS: dict[Family, str] = {
    "clean": r"none",
    "noise": r"(?P<name>\w+)_snr_db",
    "corruption": r"corruption_(?P<name>\w+)",
    "masking": r"masking_(?P<name>\w+)",
    "agreement": rf"agreement_(?P<norm>{_NORM})",
    "radius": rf"(?P<name>\w+?)(?:_(?P<meaning>decision|confidence))?_radius(?:_(?P<norm>{_NORM}))?",
    "attack": rf"(?P<name>[\w-]+)_(?P<norm>{_NORM})",
    "other": r"(?P<name>.*)",
}
"""What each family looks like in rows and records; the first that fits counts."""
_TITLES = {"pgd": "PGD", "autoattack": "AutoAttack", "gaussian": "Noise"}


@dataclass(frozen=True)
class Perturbation:
    """A perturbation without its setting; `str` and `parse` turn it into the text on disk and back."""

    family: Family
    name: str = ""
    """Of the noise, corruption, attack, check, or of how a radius was found (`estimated`, `certified_linear`)."""
    norm: str | None = None
    """Of an attack, a radius or an agreement; summaries of radii leave it out."""
    meaning: Meaning | None = None
    """Of a radius: r_A or r_B; None: a smoothed classifier's."""

    @classmethod
    def attack(cls, name: str, norm: str) -> "Perturbation":
        """An attack at a budget."""
        return cls("attack", name, norm)

    @classmethod
    def radius(cls, name: str, meaning: Meaning, norm: str | None = None) -> "Perturbation":
        """A radius of the decision or of the confidence."""
        return cls("radius", name, norm, meaning)

    @staticmethod
    def parse(text: str) -> "Perturbation":
        """What a row or a record means by its `perturbation`."""
        return _parsed(text)

    def __str__(self) -> str:
        """The text on disk."""
        if self.family == "radius":
            return "_".join(filter(None, (self.name, self.meaning, "radius", self.norm)))
        return {
            "clean": "none",
            "noise": f"{self.name}_snr_db",
            "corruption": f"corruption_{self.name}",
            "masking": f"masking_{self.name}",
            "agreement": f"agreement_{self.norm}",
            "attack": f"{self.name}_{self.norm}",
        }.get(self.family, self.name)

    @property
    def is_attack(self) -> bool:
        """Whether accuracies under it need a masking verdict."""
        return self.family == "attack"

    @property
    def unit(self) -> str | None:
        """Of its setting: `severity`, `dB`, or the norm of a budget; None: it has no setting."""
        return {"corruption": "severity", "noise": "dB", "attack": self.norm}.get(self.family)

    @property
    def title(self) -> str:
        """Its name for people, without norm and setting."""
        if self.family == "clean":
            return "Clean"
        if self.family == "corruption":
            return self.name.replace("_", " ")
        has_title = self.is_attack or self.name == "gaussian"
        return _TITLES.get(self.name, self.name) if has_title else str(self)


CLEAN = Perturbation("clean")
"""Nothing was done."""


@lru_cache(maxsize=4096)
def _parsed(text: str) -> Perturbation:
    for family, form in _FORMS.items():
        match = re.fullmatch(form, text)
        if match is not None:
            fields: dict[str, Any] = match.groupdict()
            return Perturbation(family, **fields)
    raise AssertionError("the last form takes everything")
