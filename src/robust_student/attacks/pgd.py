"""Projected gradient descent, as an attack at a budget and as its parts; the caller grades the points."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Int64
from torch import Tensor, nn

from robust_student.attacks.ascent import Uphill, ascend
from robust_student.attacks.attack import Attack
from robust_student.core.margins import log_odds, margin
from robust_student.core.tensors import Inputs, Labels, Logits, PerExample
from robust_student.core.threat_model import ThreatModel

_SEGMENT = 2  # PGD steps between two looks at which examples are broken already

Excess: TypeAlias = Callable[[Logits, Int64[Tensor, " batch"]], PerExample]
"""Maps logits and the examples' positions in the batch to what an attack has to bring below zero, one per example."""


Loss: TypeAlias = Callable[[Logits, Labels], PerExample]
"""Maps logits and labels to what an attack lowers, one per example."""


@dataclass(frozen=True)
class Pgd(Attack):
    """`pgd` from a point drawn uniformly in the ball."""

    steps: int = 50

    @property
    def name(self) -> str:
        """As it stands in rows."""
        return "pgd"

    @property
    def passes(self) -> int:
        """Of the steps."""
        return 3 * self.steps

    def propose(
        self, network: nn.Module, inputs: Inputs, labels: Labels, threat: ThreatModel, seeds: Sequence[int]
    ) -> Inputs:
        """The visited points of smallest margin."""
        return pgd(network, inputs, labels, threat, steps=self.steps, start=threat.random_each(inputs, seeds))


def pgd(
    network: nn.Module,
    inputs: Inputs,
    labels: Labels,
    threat: ThreatModel,
    *,
    steps: int,
    start: Inputs,
    relative_step: float | None = None,
) -> Inputs:
    """Projected gradient descent (Madry et al. 2018) on two losses, which fail on different networks.

    Half of the steps (rounded up) lower the log-odds of the true class, which lead where cross-entropy does and do not
    saturate; the other half start again and lower the logit margin (Carlini & Wagner 2017). Examples whose decision has
    changed leave the batch. Returns for every example the visited point of smallest margin.
    """

    def run(loss: Loss, which: Tensor, count: int) -> Inputs:
        truth = labels[which]
        return descend(
            network,
            lambda logits, positions: margin(logits, truth[positions]),
            inputs[which],
            threat.among(which),
            steps=count,
            start=start[which],
            relative_step=relative_step,
            loss=lambda logits, positions: loss(logits, truth[positions]),
        )

    everyone = torch.arange(len(inputs), device=inputs.device)
    adversarial = run(log_odds, everyone, steps - steps // 2)
    reached = _margins(network, adversarial, labels)
    standing = everyone[reached > 0]
    if steps > 1 and len(standing):
        again = run(margin, standing, steps // 2)
        better = _margins(network, again, labels[standing]) < reached[standing]
        adversarial[standing[better]] = again[better]
    return adversarial


def descend(
    network: nn.Module,
    excess: Excess,
    inputs: Inputs,
    threat: ThreatModel,
    *,
    steps: int,
    start: Inputs,
    relative_step: float | None = None,
    loss: Excess | None = None,
) -> Inputs:
    """Projected gradient descent in a ball whose radius may differ from example to example.

    Starts at `start` (a point of the ball, say a random one), takes steps of `relative_step * R` (default
    2.5 / steps) in the norm's steepest direction that lower `loss` (None: `excess` itself), and returns for every
    example the visited point of smallest excess. Examples whose excess is zero or less leave the batch. Every returned
    point obeys the ball and the input range.
    """
    size = threat.radius * (2.5 / steps if relative_step is None else relative_step)
    best, lowest = start.clone(), torch.full_like(inputs.flatten(1)[:, 0], math.inf)
    points = start.clone()

    def keep_best(active: Tensor, visited: Inputs, logits: Logits) -> None:
        reached = excess(logits, active)
        better = reached < lowest[active]
        lowest[active[better]] = reached[better]
        best[active[better]] = visited[better]

    for done in range(0, steps, _SEGMENT):
        active = (lowest > 0).nonzero()[:, 0]
        if len(active) == 0:
            break  # the last points still count, as they do beside examples that go on: no result depends on the batch
        points[active] = ascend(
            network,
            _uphill(excess if loss is None else loss, active),
            inputs[active],
            points[active],
            threat.among(active),
            steps=min(_SEGMENT, steps - done),
            step_size=_at(size, active),
            watch=_watch(keep_best, active),
        )
    with torch.no_grad():
        everyone = torch.arange(len(inputs), device=inputs.device)
        keep_best(everyone, points, network(points))
    return best


@torch.no_grad()
def _margins(network: nn.Module, points: Inputs, labels: Labels) -> PerExample:
    return margin(network(points), labels)


def _uphill(loss: Excess, active: Tensor) -> Uphill:
    return lambda _, logits: -loss(logits, active)


def _at(size: float | Tensor, positions: Tensor) -> float | Tensor:
    return size[positions] if isinstance(size, Tensor) else size


def _watch(keep: Callable[[Tensor, Tensor, Tensor], None], active: Tensor) -> Callable[[Tensor, Tensor], None]:
    return lambda points, logits: keep(active, points, logits)
