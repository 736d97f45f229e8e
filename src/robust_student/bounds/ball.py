"""The set of inputs a certificate speaks about, and the least of a linear function over it."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from robust_student.bounds.activations import Interval
from robust_student.core.norms import Norm
from robust_student.core.threat_model import ThreatModel


@dataclass(frozen=True, eq=False)
class Ball:
    """The sets of a threat model around some inputs."""

    inputs: Tensor
    """x, `(batch, *shape)`."""
    threat: ThreatModel

    @property
    def norm(self) -> Norm:
        """Of the threat model."""
        return self.threat.norm

    @cached_property
    def radius(self) -> Tensor:
        """R, `(batch,)`, in units of the norm."""
        return self.threat.radii(self.inputs)

    @cached_property
    def unit(self) -> Tensor:
        """The norm's per-feature scale, shaped as the inputs."""
        return torch.as_tensor(self.norm.unit(self.inputs)).to(self.inputs).expand_as(self.inputs)

    @cached_property
    def box(self) -> Interval:
        """The smallest box around the set."""
        return self.threat.box(self.inputs)

    def least(self, rows: Tensor, owner: Tensor) -> Tensor:
        """A lower bound of `<row, z>` over the set of each row's example, `(rows,)`; exact without an input range.

        Over the whole ball it is `<row, x> - R ||row||_q` (Hoelder), where elements of the row that push an input out
        of the range do not count; over the box it is the sum of the smaller ends. The larger of the two is taken.
        """
        flat = rows.flatten(1)
        lower, upper = (end.flatten(1) for end in self.box)
        positive, negative = flat.clamp_min(0.0), flat.clamp_max(0.0)
        over_box = (positive * lower[owner] + negative * upper[owner]).sum(dim=1)
        if self.norm.p == torch.inf:
            return over_box
        inputs, unit = self.inputs.flatten(1), self.unit.flatten(1)
        room_below, room_above = (inputs > lower).to(flat), (inputs < upper).to(flat)
        slope = (positive * room_below[owner] - negative * room_above[owner]) * unit[owner]
        size = torch.linalg.vector_norm(slope, self.norm.q, dim=1)
        return torch.maximum(over_box, (flat * inputs[owner]).sum(dim=1) - self.radius[owner] * size)

    def least_of_all(self, rows: Tensor) -> Tensor:
        """The same for every example and every row, `(batch, rows)`; for L1 without regard to the range."""
        flat = rows.flatten(1)
        lower, upper = (end.flatten(1) for end in self.box)
        positive, negative = flat.clamp_min(0.0), flat.clamp_max(0.0)
        over_box = lower @ positive.T + upper @ negative.T
        if self.norm.p == torch.inf:
            return over_box
        inputs, unit = self.inputs.flatten(1), self.unit.flatten(1)
        if self.norm.p == 2:
            room_below, room_above = (inputs > lower).to(flat), (inputs < upper).to(flat)
            square = unit.square()
            size = ((room_below * square) @ positive.square().T + (room_above * square) @ negative.square().T).sqrt()
        else:
            size = (flat.abs() * unit[:1]).amax(dim=1)[None]  # the scale is the same for every example
        return torch.maximum(over_box, inputs @ flat.T - self.radius[:, None] * size)
