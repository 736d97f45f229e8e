"""AutoAttack (Croce & Hein 2020): four attacks one after the other, every example with random numbers of its own."""

from dataclasses import dataclass
from typing import Literal

from robust_student.attacks.apgd import Apgd
from robust_student.attacks.attack import Attack
from robust_student.attacks.fab import Fab
from robust_student.attacks.square import Square

Tier = Literal["fast", "standard"]
_QUERIES = {"fast": 1000, "standard": 5000}


@dataclass(frozen=True)
class AutoAttack:
    """The ensemble for any number of classes from 2 up, any input shape, range and norm.

    `standard` is APGD-CE, APGD-T, FAB-T, Square with 5,000 queries, with the published numbers of steps, restarts and
    targets; `fast` leaves FAB-T out and gives Square 1,000. Below four classes the targeted DLR loss is undefined:
    APGD-T then raises the margin instead (`apgd-margin`), and the suite is named `standard-few-classes` or
    `fast-few-classes` because its numbers are not those of the published suite.
    """

    tier: Tier

    def attacks(self, classes: int) -> list[Attack]:
        """Its attacks in the order in which they run; each gets what the ones before did not break."""
        targeted = Apgd("t" if classes >= 4 else "margin")
        fab: list[Attack] = [Fab()] if self.tier == "standard" else []
        return [Apgd("ce"), targeted, *fab, Square(_QUERIES[self.tier])]

    def suite(self, classes: int) -> str:
        """The name under which the numbers may be quoted."""
        return self.tier if classes >= 4 else f"{self.tier}-few-classes"
