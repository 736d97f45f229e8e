"""Projected gradient descent, and the box in which other people's attacks work; attacks only propose points."""

import math
from collections.abc import Callable
from typing import TypeAlias

import torch
from jaxtyping import Int64
from torch import Tensor, nn
from torch.nn import functional

from robust_student.ascent import ascend
from robust_student.margins import margin
from robust_student.norms import Norm
from robust_student.tensors import InputRange, Inputs, Labels, Logits, PerExample, Size

_SQUARE_SIDE = 5
_SEGMENT = 5  # PGD steps between two looks at which examples are broken already

Excess: TypeAlias = Callable[[Logits, Int64[Tensor, " batch"]], PerExample]
"""Maps logits and the examples' positions in the batch to what an attack has to bring below zero, one per example."""


def pgd(
    network: nn.Module,
    inputs: Inputs,
    labels: Labels,
    *,
    norm: Norm,
    radius: Size,
    steps: int,
    input_range: InputRange,
    start: Inputs,
    relative_step: float | None = None,
) -> Inputs:
    """Projected gradient descent on the logit margin (Madry et al. 2018; margin loss: Carlini & Wagner 2017).

    `descend` with the margin as the excess: examples whose decision has changed leave the batch.
    """
    return descend(
        network,
        lambda logits, positions: margin(logits, labels[positions]),
        inputs,
        norm=norm,
        radius=radius,
        steps=steps,
        input_range=input_range,
        start=start,
        relative_step=relative_step,
    )


def descend(
    network: nn.Module,
    excess: Excess,
    inputs: Inputs,
    *,
    norm: Norm,
    radius: Size,
    steps: int,
    input_range: InputRange,
    start: Inputs,
    relative_step: float | None = None,
) -> Inputs:
    """Projected gradient descent on `excess` in a ball whose radius may differ from example to example.

    Starts at `start` (a point of the ball, say a random one), takes steps of `relative_step * radius` (default
    2.5 / steps) in the norm's steepest direction, and returns for every example the visited point of smallest excess.
    Examples whose excess is zero or less leave the batch. Every returned point obeys the ball and the input range.
    """
    size = radius * (2.5 / steps if relative_step is None else relative_step)
    best, lowest = start.clone(), torch.full_like(inputs.flatten(1)[:, 0], math.inf)
    points = start.clone()

    def keep_best(active: Tensor, visited: Inputs, drop: PerExample) -> None:
        better = -drop < lowest[active]
        lowest[active[better]] = -drop[better]
        best[active[better]] = visited[better]

    for done in range(0, steps, _SEGMENT):
        active = (lowest > 0).nonzero()[:, 0]
        if len(active) == 0:
            break  # the last points still count, as they do beside examples that go on: no result depends on the batch
        points[active] = ascend(
            network,
            _uphill(excess, active),
            inputs[active],
            points[active],
            norm=norm,
            radius=_at(radius, active),
            steps=min(_SEGMENT, steps - done),
            step_size=_at(size, active),
            input_range=input_range,
            watch=_watch(keep_best, active),
        )
    with torch.no_grad():
        everyone = torch.arange(len(inputs), device=inputs.device)
        keep_best(everyone, points, -excess(network(points), everyone))
    return best


def _uphill(excess: Excess, active: Tensor) -> Callable[[Logits], PerExample]:
    return lambda logits: -excess(logits, active)


def _at(size: float | Tensor, positions: Tensor) -> float | Tensor:
    return size[positions] if isinstance(size, Tensor) else size


def _watch(keep: Callable[[Tensor, Tensor, Tensor], None], active: Tensor) -> Callable[[Tensor, Tensor], None]:
    return lambda points, values: keep(active, points, values)


class UnitBox(nn.Module):
    """A network as foreign attacks want it: four-dimensional inputs in [0, 1], the norm without a per-feature scale.

    Inputs without a range are put into a box so wide that no point of the ball around any of them leaves it. Square
    divides by a fifth of the image's height in l1 and l2: inputs that are not images, or smaller than five pixels, are
    laid out as a square that is filled up with pixels the network does not see. Attacks that compute in float32 get
    logits of that type; the network sees the inputs' own.
    """

    def __init__(self, network: nn.Module, inputs: Inputs, norm: Norm, radius: float, input_range: InputRange) -> None:
        super().__init__()
        self.network, self.input_range = network, input_range
        self.shape, self.dtype = inputs.shape[1:], inputs.dtype
        self.size = math.prod(self.shape)
        image = len(self.shape) == 3 and min(self.shape[1:]) >= _SQUARE_SIDE
        self.side = None if image else max(_SQUARE_SIDE, math.ceil(math.sqrt(self.size)))
        self.unit: Tensor | float = 1.0 if norm.scale is None else norm.scale.to(inputs)
        self.lower: Tensor | float
        if input_range.bounded:
            self.lower = input_range.lower
            self.length = input_range.width / float(torch.as_tensor(self.unit).min())
        else:
            self.lower = inputs.amin(dim=0) - radius * self.unit
            self.length = float(((inputs.amax(dim=0) - self.lower) / self.unit).max()) + radius

    def encode(self, inputs: Tensor) -> Tensor:
        """Natural units to the unit box, `(batch, channels, height, width)`."""
        unit = (inputs - self.lower) / (self.unit * self.length)
        if self.side is None:
            return unit
        filled = functional.pad(unit.flatten(1), (0, self.side**2 - self.size), value=0.5)
        return filled.view(-1, 1, self.side, self.side)

    def decode(self, points: Tensor) -> Tensor:
        """Back to natural units, shape and range."""
        seen = points.to(self.dtype).flatten(1)[:, : self.size].reshape(len(points), *self.shape)
        return self.input_range.clip(seen * (self.unit * self.length) + self.lower)

    def forward(self, points: Tensor) -> Tensor:
        """Logits of points in the unit box; a constant network, too, has a gradient, which the attacks insist on."""
        return self.network(self.decode(points)).to(points.dtype) + 0 * points.flatten(1)[:, :1]
