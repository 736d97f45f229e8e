"""Whether an input resembles those that a model was trained on: an estimate from its logits alone."""

from jaxtyping import Bool
from pydantic import Field
from torch import Tensor

from robust_student.core.settings import Settings
from robust_student.core.tensors import Logits, PerExample

QUANTILE = 0.05
"""Share of validation examples that count as unlike."""


class Familiarity(Settings):
    """The value of `familiarity` below which an input counts as unlike the training set."""

    threshold: float
    """The QUANTILE of the validation examples."""
    examples: int = Field(ge=1)
    """How many there were."""

    @classmethod
    def of(cls, logits: Logits) -> "Familiarity | None":
        """From the logits of validation examples; None where none is finite."""
        values = familiarity(logits)
        values = values[values.isfinite()]
        if len(values) == 0:
            return None
        return cls(threshold=float(values.double().quantile(QUANTILE)), examples=len(values))

    def unlike(self, logits: Logits) -> Bool[Tensor, " batch"]:
        """Which inputs count as unlike the training set; not those without an answer (NaN)."""
        return familiarity(logits) < self.threshold


def familiarity(logits: Logits) -> PerExample:
    """max_k S_k - mean_k S_k: the maximum logit (Hendrycks et al. 2022, arXiv 1911.11132) of logits of mean zero.

    The mean is taken off because distillation leaves it free: adding a constant to all logits changes no answer.
    """
    return logits.amax(dim=1) - logits.mean(dim=1)
