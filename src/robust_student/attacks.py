"""Projected gradient descent: attacks only propose points, the caller grades them."""

import math
from collections.abc import Callable
from typing import TypeAlias

import torch
from jaxtyping import Int64
from torch import Tensor, nn

from robust_student.ascent import ascend
from robust_student.margins import margin
from robust_student.norms import Norm
from robust_student.tensors import InputRange, Inputs, Labels, Logits, PerExample, Size

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
