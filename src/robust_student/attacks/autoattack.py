"""AutoAttack (Croce & Hein 2020): four attacks one after the other, every example with random numbers of its own."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from robust_student.attacks.apgd import apgd, cross_entropy, targeted_dlr, targeted_margin
from robust_student.attacks.fab import fab
from robust_student.attacks.square import square
from robust_student.attacks.unscaled import Unscaled
from robust_student.core.margins import by_score
from robust_student.core.module_state import frozen
from robust_student.core.rng import generators
from robust_student.core.tensors import Inputs, Labels, column
from robust_student.core.threat_model import ThreatModel

Tier = Literal["fast", "standard"]
_TARGETS = 9  # rival classes that targeted attacks aim at, those of largest score first
_L1_TARGETS = 5  # of APGD-T in L1
_L1_RESTARTS = 5  # of APGD-CE in L1
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
    threat: ThreatModel

    def attacks(self, classes: int) -> list[str]:
        """Names of the attacks in the order in which they run."""
        targeted = "apgd-t" if classes >= 4 else "apgd-margin"
        return ["apgd-ce", targeted, *(["fab-t"] if self.tier == "standard" else []), "square"]

    def suite(self, classes: int) -> str:
        """The name under which the numbers may be quoted."""
        return self.tier if classes >= 4 else f"{self.tier}-few-classes"

    def run(
        self,
        attack: str,
        network: nn.Module,
        inputs: Inputs,
        labels: Labels,
        seeds: Sequence[int],
    ) -> Inputs:
        """Points proposed by one of the attacks, in the units of the inputs. The caller clips, checks and counts.

        A result depends on the example's own seed and, by rounding alone, on the examples beside it.
        """
        if len(inputs) == 0:
            return inputs
        unit = self.threat.norm.unit(inputs)
        with frozen(network):
            found = self._propose(
                attack, Unscaled(network, unit), inputs / unit, labels, self.threat.unscaled(inputs), seeds
            )
        return self.threat.clip(found * unit)

    def _propose(
        self,
        attack: str,
        network: nn.Module,
        inputs: Tensor,
        labels: Tensor,
        threat: ThreatModel,
        seeds: Sequence[int],
    ) -> Tensor:
        if attack == "square":
            return square(network, inputs, labels, threat, generators(seeds, attack), queries=_QUERIES[self.tier])
        with torch.no_grad():
            rivals = by_score(network(inputs), labels)
        found, standing = inputs.clone(), torch.arange(len(inputs), device=inputs.device)
        for turn in range(self._turns(attack, rivals.shape[1])):
            if len(standing) == 0:
                break
            part, truth = inputs[standing], labels[standing]
            if attack == "fab-t":
                reached = fab(network, part, truth, rivals[standing, turn], threat)
                near = threat.norm.size(reached - part) <= threat.budget
                reached = torch.where(column(near, part), reached, part)
            else:
                loss = cross_entropy(truth)
                if attack != "apgd-ce":
                    targeted = targeted_dlr if attack == "apgd-t" else targeted_margin
                    loss = targeted(truth, rivals[standing, turn])
                streams = generators([seeds[i] for i in standing.tolist()], attack, turn)
                reached = apgd(network, loss, part, truth, threat, streams)
            found[standing] = reached
            standing = standing[(reached == part).flatten(1).all(dim=1)]  # attacks leave what they could not break
        return found

    def _turns(self, attack: str, rivals: int) -> int:
        """Restarts of APGD-CE; rival classes of the targeted attacks."""
        if attack == "apgd-ce":
            return _L1_RESTARTS if self.threat.norm.p == 1 else 1
        return min(_L1_TARGETS if self.threat.norm.p == 1 and attack != "fab-t" else _TARGETS, rivals)
