"""Steps uphill inside a ball: the one loop behind the secant objective and behind the PGD attack."""

from collections.abc import Callable

import torch
from torch import Tensor

from robust_student.core.margins import input_gradient
from robust_student.core.tensors import Inputs, Size
from robust_student.core.threat_model import ThreatModel

Network = Callable[[Tensor], Tensor]
Uphill = Callable[[Tensor, Tensor], Tensor]
"""Maps points `(batch, *shape)` and the logits there `(batch, classes)` to the value per example that is raised."""


def default_step(steps: int) -> float:
    """Size of an ascent step in units of the radius: 1.25 for one step, else 1.5 / K but at least 0.25.

    Chosen so that the path can cross the ball: K = 1 from a random start as in Wong et al. 2020 (step 1.25 R).
    """
    return 1.25 if steps == 1 else max(1.5 / steps, 0.25)


def ascend(
    network: Network,
    uphill: Uphill,
    inputs: Inputs,
    start: Inputs,
    threat: ThreatModel,
    *,
    steps: int,
    step_size: Size,
    first_gradient: Inputs | None = None,
    watch: Callable[[Tensor, Tensor], None] | None = None,
) -> Inputs:
    """Move `start` by K steps of the norm's dual direction that raise `uphill`, inside the threat model's set.

    `z <- project(step(z))`; every point obeys the ball around `inputs` and the input range. `step_size` is in units of
    the norm. `first_gradient`, the gradient of `uphill` at `start`, saves the first pass where it is known
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
                gradient = input_gradient(uphill(points, logits), points)
            points = points.detach()
            if watch is not None:
                watch(points, logits.detach())
        points = threat.project(threat.step(points, gradient, step_size), inputs)
    return points
