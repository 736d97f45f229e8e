"""Every attack at a budget by name: a new one is a file, a row here and a test."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from robust_student.attacks.apgd import Apgd
from robust_student.attacks.attack import Attack
from robust_student.attacks.autoattack import AutoAttack, Tier
from robust_student.attacks.fab import Fab
from robust_student.attacks.minimum_norm import Nearest
from robust_student.attacks.pgd import Pgd
from robust_student.attacks.square import Square
from robust_student.core.errors import UserError, nearest
from robust_student.core.threat_model import ThreatModel


class Options(NamedTuple):
    """What attacks may be told."""

    classes: int
    """Of the data."""
    steps: int = 50
    """Of PGD."""
    tier: Tier = "standard"
    """Of AutoAttack."""


ATTACKS: dict[str, Callable[[Options], Sequence[Attack]]] = {
    "pgd": lambda options: [Pgd(options.steps)],
    "autoattack": lambda options: AutoAttack(options.tier).attacks(options.classes),
    "apgd-ce": lambda options: [Apgd("ce")],
    "apgd-t": lambda options: [Apgd("t" if options.classes >= 4 else "margin")],
    "fab-t": lambda options: [Fab()],
    "square": lambda options: [Square()],
    "ddn": lambda options: [Nearest("ddn")],
    "fmn": lambda options: [Nearest("fmn")],
    "deepfool": lambda options: [Nearest("deepfool")],
}
"""Attacks that run one after the other, by the name of the whole; each gets what the ones before did not break."""


def attacks_named(name: str, options: Options, threat: ThreatModel) -> Sequence[Attack]:
    """The attacks of a row; UserError where there is none, or one cannot serve the threat model."""
    if name not in ATTACKS:
        raise UserError(f"attacks: unknown name '{name}'{nearest(name, list(ATTACKS))}")
    attacks = ATTACKS[name](options)
    for attack in attacks:
        attack.require(threat)
    return attacks
