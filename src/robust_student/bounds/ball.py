"""The set of inputs a certificate speaks about: a ball of the norm around each example, cut to the input range."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from robust_student.bounds.activations import Interval
from robust_student.core.norms import Norm
from robust_student.core.tensors import InputRange, column


@dataclass(frozen=True, eq=False)
class Ball:
    """{z : ||z - x||_p <= R, z in the input range}, one radius per example."""

    inputs: Tensor
    """x, `(batch, *shape)`."""
    radius: Tensor
    """R, `(batch,)`, in units of the norm."""
    norm: Norm
    input_range: InputRange

    @cached_property
    def unit(self) -> Tensor:
        """The norm's per-feature scale, shaped as the inputs."""
        scale = self.inputs.new_ones(()) if self.norm.scale is None else self.norm.scale.to(self.inputs)
        return scale.expand_as(self.inputs)

    @cached_property
    def box(self) -> Interval:
        """The smallest box around the set."""
        reach = column(self.radius, self.inputs) * self.unit
        lower, upper = self.inputs - reach, self.inputs + reach
        return self.input_range.clip(lower), self.input_range.clip(upper)

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
