"""What attacks share that know no per-feature scale: they see inputs divided by it, and may come in turns."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from robust_student.core.module_state import frozen
from robust_student.core.tensors import Inputs
from robust_student.core.threat_model import ThreatModel


class Unscaled(nn.Module):
    """A network of inputs that are measured in units of the norm's per-feature scale (`ThreatModel.unscaled`)."""

    def __init__(self, network: nn.Module, unit: float | Tensor) -> None:
        super().__init__()
        self.network, self.unit = network, unit

    def forward(self, points: Tensor) -> Tensor:
        """Logits."""
        return self.network(points if isinstance(self.unit, float) else points * self.unit)


def without_scale(
    network: nn.Module, inputs: Inputs, threat: ThreatModel, search: Callable[[nn.Module, Tensor, ThreatModel], Tensor]
) -> Inputs:
    """Points that `search` finds for the network, the inputs and the threat model in units of the scale."""
    if len(inputs) == 0:
        return inputs
    unit = threat.norm.unit(inputs)
    with frozen(network):
        unscaled_points = search(Unscaled(network, unit), inputs / unit, threat.unscaled(inputs))
    return threat.clip(unscaled_points * unit)


def in_turns(inputs: Inputs, turns: int, run: Callable[[int, Tensor], Tensor]) -> Inputs:
    """What several runs of an attack find, each on the examples that the runs before did not break.

    `run` maps the number of the turn and positions to points, and gives the input itself where it broke nothing.
    """
    points, standing = inputs.clone(), torch.arange(len(inputs), device=inputs.device)
    for turn in range(turns):
        if len(standing) == 0:
            break
        reached = run(turn, standing)
        unbroken = (reached == inputs[standing]).flatten(1).all(dim=1)
        points[standing] = reached
        standing = standing[unbroken]
    return points
