"""Steps uphill inside a ball: the one loop behind the secant objective and behind the PGD attack."""

from collections.abc import Callable

import torch
from torch import Tensor

from robust_student.core.margins import input_gradient
from robust_student.core.norms import Norm
from robust_student.core.rng import Source
from robust_student.core.tensors import InputRange, Inputs, Size

Network = Callable[[Tensor], Tensor]
Uphill = Callable[[Tensor], Tensor]
"""Maps logits `(batch, classes)` to the value per example `(batch,)` that the ascent raises."""


def default_step(steps: int) -> float:
    """Size of an ascent step in units of the radius: 1.25 for one step, else 1.5 / K but at least 0.25.

    Chosen so that the path can cross the ball: K = 1 from a random start as in Wong et al. 2020 (step 1.25 R).
    """
    return 1.25 if steps == 1 else max(1.5 / steps, 0.25)


def random_start(inputs: Inputs, norm: Norm, radius: Size, input_range: InputRange, source: Source) -> Inputs:
    """x + d with d uniform in the ball of the given radius, clipped to the input range."""
    return input_range.clip(inputs + norm.random(inputs, radius, source))


def ascend(
    network: Network,
    uphill: Uphill,
    inputs: Inputs,
    start: Inputs,
    *,
    norm: Norm,
    radius: Size,
    steps: int,
    step_size: Size,
    input_range: InputRange,
    first_gradient: Inputs | None = None,
    watch: Callable[[Tensor, Tensor], None] | None = None,
) -> Inputs:
    """Move `start` by K steps of the norm's dual direction that raise `uphill`, inside the ball around `inputs`.

    `z <- clip(x + project(step(z) - x))`; every point obeys the ball and the input range. `radius` and `step_size` are
    in units of the norm. `first_gradient`, the gradient of `uphill` at `start`, saves the first pass where it is known
    already. `watch` is shown every visited point but the last, with the logits there.
    """
    points = start.detach()
    for step in range(steps):
        if step == 0 and first_gradient is not None:
            gradient = first_gradient
        else:
            points = points.requires_grad_()
            with torch.enable_grad():
                logits = network(points)
                gradient = input_gradient(uphill(logits), points)
            points = points.detach()
            if watch is not None:
                watch(points, logits.detach())
        moved = norm.step(points, gradient, step_size, input_range)
        points = input_range.clip(inputs + norm.project(moved - inputs, radius))
    return points
