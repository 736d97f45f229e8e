"""Certified radii: the largest ball over which a sound bound still holds, for the decision and for the confidence.

Theorems: docs/theory.md. What is certified is the network in exact arithmetic; `SLACK` covers its own rounding.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from robust_student.bounds.ball import Ball
from robust_student.bounds.propagation import Method, margin_bounds
from robust_student.bounds.trace import Graph, trace
from robust_student.core.margins import is_rival, log_odds, margin
from robust_student.core.module_state import dtype_of, evaluating
from robust_student.core.tensors import Inputs, Labels, Logits, PerExample
from robust_student.core.threat_model import ThreatModel

SLACK = 256.0
"""A margin must exceed this many machine epsilons of the network's dtype, times its largest |logit| at x."""
_START = 1 / 64  # first radius tried, in units of the threat model's
_DOUBLINGS = 40

_Stands: TypeAlias = Callable[[Logits, Tensor], Bool[Tensor, " batch"]]
"""From lower bounds of the margins and the positions of their examples: does the property hold over the ball?"""


@dataclass(frozen=True, eq=False)
class Certifier:
    """A traced network and the threat model: everything a certificate needs but the examples."""

    graph: Graph
    threat: ThreatModel
    """Its radius is the one that `stands` asks about; a search begins at 1/64 of it."""
    method: Method
    tolerance: float = 0.05
    """A radius is found to within this share of itself, from below."""

    @classmethod
    def of(
        cls,
        network: nn.Module,
        shape: Sequence[int],
        threat: ThreatModel,
        *,
        method: Method,
        tolerance: float = 0.05,
    ) -> "Certifier":
        """Trace `network` for inputs of `shape`; UserError names the operation that cannot be bounded."""
        return cls(trace(network, shape), threat, method, tolerance)

    @torch.no_grad()
    def stands(self, inputs: Inputs, labels: Labels) -> Bool[Tensor, " batch"]:
        """Whether the decision is certified at the threat model's radius: `min_j lb_j > slack` (theorems A and C)."""
        ball = Ball(inputs.to(torch.float64), self.threat)
        bounds = margin_bounds(self.graph.layers(torch.float64), ball, labels, self.method)
        rivals = bounds.masked_fill(~is_rival(bounds, labels), torch.inf)
        return (rivals.amin(dim=1) > self._slack(inputs)) & (margin(self._logits(inputs), labels) > self._slack(inputs))

    def decision_radius(
        self,
        inputs: Inputs,
        labels: Labels,
        *,
        budgets: Sequence[float] = (),
        ceiling: PerExample | None = None,
    ) -> PerExample:
        """A lower bound of r_A: no perturbation of at most this size changes the decision (theorems A and C).

        The largest tried R over which `min_j lb_j > slack`. 0 where the decision is wrong already. `budgets` are tried
        themselves, so that `radius >= budget` says whether the example is certified at it. `ceiling`: radii known to
        be out of reach, say an attack's; saves time. Units: those of the norm.
        """
        slack = self._slack(inputs)

        def stands(bounds: Tensor, positions: Tensor) -> Tensor:
            least = bounds.masked_fill(~is_rival(bounds, labels[positions]), torch.inf).amin(dim=1)
            return least > slack[positions]

        clean = margin(self._logits(inputs), labels) > slack
        return self._search(inputs, labels, clean, stands, budgets, ceiling)

    def confidence_radius(
        self,
        inputs: Inputs,
        labels: Labels,
        teacher_logits: Logits,
        *,
        budgets: Sequence[float] = (),
        ceiling: PerExample | None = None,
    ) -> PerExample:
        """A lower bound of r_B: no perturbation of at most this size takes S_y below T_y(x) (theorems B and C).

        From margins, `S_y(z) >= 1 / (1 + sum_j exp(-lb_j))`; both sides are compared as log-odds, so that nothing
        saturates. 0 where S_y(x) < T_y(x). Arguments as for `decision_radius`.
        """
        slack, teacher_log_odds = self._slack(inputs), log_odds(teacher_logits.to(torch.float64), labels)

        def stands(bounds: Tensor, positions: Tensor) -> Tensor:
            rivals = (-bounds).masked_fill(~is_rival(bounds, labels[positions]), -torch.inf)
            return -rivals.logsumexp(dim=1) > teacher_log_odds[positions] + slack[positions]

        clean = log_odds(self._logits(inputs), labels) > teacher_log_odds + slack
        return self._search(inputs, labels, clean, stands, budgets, ceiling)

    def _logits(self, inputs: Tensor) -> Tensor:
        with torch.no_grad(), evaluating(self.graph.network):
            return self.graph.layers(torch.float64)(inputs.to(torch.float64))

    def _slack(self, inputs: Tensor) -> Tensor:
        return SLACK * torch.finfo(dtype_of(self.graph.network)).eps * self._logits(inputs).abs().amax(dim=1)

    @torch.no_grad()
    def _search(
        self,
        inputs: Tensor,
        labels: Tensor,
        clean: Tensor,
        stands: _Stands,
        budgets: Sequence[float],
        ceiling: Tensor | None,
    ) -> Tensor:
        """Double the radius until the property falls, try the budgets in between, then bisect."""
        layers, points = self.graph.layers(torch.float64), inputs.to(torch.float64)
        limit = self._limit(points)
        limit = limit if ceiling is None else torch.minimum(limit, ceiling.to(limit))
        low, high = torch.zeros_like(limit), limit.clone()

        def attempt(candidates: Tensor, radii: Tensor) -> None:
            active = candidates.nonzero()[:, 0]
            if len(active) == 0:
                return
            tried = radii[active]
            ball = Ball(points[active], self.threat.at(tried))
            holds = stands(margin_bounds(layers, ball, labels[active], self.method), active)
            low[active[holds]] = tried[holds]
            high[active[~holds]] = tried[~holds]

        smallest = _START * self.threat.budget
        for _ in range(_DOUBLINGS):
            growing = clean & (high == limit) & (low < high)
            attempt(growing, torch.minimum(torch.where(low > 0, 2 * low, smallest), high))
        for budget in sorted(budgets):
            attempt(clean & (low < budget) & (budget < high), torch.full_like(high, budget))
        while True:
            apart = clean & (high - low > self.tolerance * high) & (high > self.tolerance * smallest)
            if not bool(apart.any()):
                return low
            attempt(apart, (low + high) / 2)

    def _limit(self, points: Tensor) -> Tensor:
        """The size of the largest possible perturbation; far beyond the first radius where there is no range."""
        if not self.threat.input_range.bounded:
            return points.new_full((len(points),), 2.0**20 * self.threat.budget)
        return self.threat.farthest(points)
