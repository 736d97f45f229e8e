"""A change of coordinates: attacks that know no per-feature scale see inputs divided by it."""

from torch import Tensor, nn


class Unscaled(nn.Module):
    """A network of inputs that are measured in units of the norm's per-feature scale (`ThreatModel.unscaled`)."""

    def __init__(self, network: nn.Module, unit: float | Tensor) -> None:
        super().__init__()
        self.network, self.unit = network, unit

    def forward(self, points: Tensor) -> Tensor:
        """Logits."""
        return self.network(points if isinstance(self.unit, float) else points * self.unit)
