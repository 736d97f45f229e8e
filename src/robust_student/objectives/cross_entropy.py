"""The objective of a network that learns from labels alone: this is how teachers are made."""

from torch import nn
from torch.nn import functional

from robust_student.data.augmentation import Mixed
from robust_student.objectives.precision import ForwardPass, Precision
from robust_student.objectives.terms import Terms


class LabelObjective(nn.Module):
    """Cross-entropy, -w log p_y - (1 - w) log p_y' where an example is a mixture with shares w and 1 - w."""

    def __init__(self, network: nn.Module, precision: Precision = "fp32", *, compiled: bool = False) -> None:
        """Wrap `network`."""
        super().__init__()
        self.network = network
        self._passes = ForwardPass(network, precision, compiled=compiled)

    def forward(self, batch: Mixed) -> Terms:
        """The one term of a batch."""
        logits = self._passes(batch.inputs)
        first = functional.cross_entropy(logits, batch.labels, reduction="none")
        second = functional.cross_entropy(logits, batch.others, reduction="none")
        return Terms({"cross_entropy": batch.shares * first + (1 - batch.shares) * second}, {"cross_entropy": 1.0})
