"""An attack at a budget: what it is given and what it gives back."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import nn

from robust_student.core.tensors import Inputs, Labels
from robust_student.core.threat_model import ThreatModel


class Attack(ABC):
    """Proposes a point for every example and never grades itself: the caller forces the points into the set."""

    @property
    @abstractmethod
    def name(self) -> str:
        """As it stands in rows."""

    @property
    def passes(self) -> int:
        """About how many forward passes an example takes that stands; a step with its gradient counts as three."""
        return 300

    def require(self, threat: ThreatModel) -> None:  # noqa: B027  # most need nothing
        """Raise UserError where it cannot serve this threat model, or needs what is not installed."""

    @abstractmethod
    def propose(
        self, network: nn.Module, inputs: Inputs, labels: Labels, threat: ThreatModel, seeds: Sequence[int]
    ) -> Inputs:
        """Points of the threat model's set around the inputs that `network` should decide wrongly.

        `seeds` holds one number per example, from which alone its random numbers come: what an example gets does not
        depend on the batch that it is in, up to rounding.
        """
