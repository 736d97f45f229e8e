"""The objective of a network that learns from labels alone: this is how teachers are made."""

from typing import ClassVar

from torch import nn
from torch.nn import functional

from robust_student.core.rng import Source
from robust_student.objectives.batch import Batch, Terms
from robust_student.objectives.precision import ForwardPass, Precision


class LabelObjective(nn.Module):
    """Cross-entropy, -w log p_y - (1 - w) log p_y' where an example is a mixture with shares w and 1 - w."""

    uses_targets: ClassVar[bool] = False
    """It has no teacher."""

    def __init__(self, network: nn.Module, precision: Precision = "fp32", *, compiled: bool = False) -> None:
        """Wrap `network`."""
        super().__init__()
        self.network = network
        self._passes = ForwardPass(network, precision, compiled=compiled)

    def forward(self, batch: Batch, source: Source = None) -> Terms:
        """The one term of a batch; nothing is drawn from `source`."""
        logits = self._passes(batch.inputs)
        value = functional.cross_entropy(logits, batch.labels, reduction="none")
        if batch.others is not None and batch.shares is not None:
            second = functional.cross_entropy(logits, batch.others, reduction="none")
            value = batch.shares * value + (1 - batch.shares) * second
        return Terms({"cross_entropy": value}, {"cross_entropy": 1.0}, example_weights=batch.example_weights)
