"""AutoAttack (Croce & Hein 2020): four attacks one after the other, every example with random numbers of its own."""

from dataclasses import dataclass
from typing import Literal

from robust_student.attacks.apgd import Apgd
from robust_student.attacks.attack import Attack
from robust_student.attacks.fab import Fab
from robust_student.attacks.square import Square

Tier = Literal["screening", "fast", "standard"]
_QUERIES = {"fast": 1000, "standard": 5000}
_SCREENING_STEPS = {"ce": 50, "t": 20, "margin": 20}
"""Of APGD; of the last two on each rival."""


@dataclass(frozen=True)
class AutoAttack:
    """The ensemble for any number of classes from 2 up, any input shape, range and norm.

    `standard` is APGD-CE, APGD-T, FAB-T, Square with 5,000 queries, with the published numbers of steps, restarts and
    targets; `fast` leaves FAB-T out and gives Square 1,000. `screening` has the first two attacks alone, with 50 and 20
    steps instead of 100 a run: what falls to them at all falls early (docs/evaluation.md). Below four classes the
    targeted DLR loss is undefined: APGD-T then raises the margin instead (`apgd-margin`), and the suite is named
    `standard-few-classes` and so on, because its numbers are not those of the published suite.
    """

    tier: Tier

    def attacks(self, classes: int) -> list[Attack]:
        """Its attacks in the order in which they run; each gets what the ones before did not break."""
        loss: Literal["t", "margin"] = "t" if classes >= 4 else "margin"
        if self.tier == "screening":
            return [Apgd("ce", _SCREENING_STEPS["ce"]), Apgd(loss, _SCREENING_STEPS[loss])]
        fab: list[Attack] = [Fab()] if self.tier == "standard" else []
        return [Apgd("ce"), Apgd(loss), *fab, Square(_QUERIES[self.tier])]

    def suite(self, classes: int) -> str:
        """The name under which the numbers may be quoted."""
        return self.tier if classes >= 4 else f"{self.tier}-few-classes"
