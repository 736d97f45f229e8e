"""Upper bounds on the true radii r_A and r_B: the smallest perturbation that a set of minimum-norm attacks found.

Attacks only propose points. One grader moves them into the input range, verifies them in the network's own arithmetic,
measures them in float64 and keeps the smallest per example. What nothing found stays infinite: not a guarantee.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float64
from torch import Tensor, nn

from robust_student.attacks.attack import Attack
from robust_student.attacks.fab import TARGETS, fab
from robust_student.attacks.foolbox_attacks import Standing, ddn, deepfool, fmn, foolbox_for
from robust_student.attacks.pgd import Excess, descend
from robust_student.attacks.unscaled import Unscaled
from robust_student.core.errors import UserError
from robust_student.core.margins import by_score, input_gradient, log_odds, margin
from robust_student.core.module_state import evaluating, frozen
from robust_student.core.norms import Norm, NormName
from robust_student.core.rng import generator_each
from robust_student.core.tensors import Inputs, Labels, Logits, PerExample, answers, column
from robust_student.core.threat_model import ThreatModel

DEFAULT_ATTACKS = ("pgd-bisection", "fab")
"""The attacks that need nothing but the product's own dependencies."""
_STEPS = (0.5, 0.1, 0.02)  # sizes of PGD's steps in units of the budget: across the ball, then finer
_CLOSE = 0.005  # bisection over the budget stops where failure and success are this close, relative to the failure
_HALVINGS = 12  # of the segment from x to the best point: what is left is 1/4096 of it


class Smallest(NamedTuple):
    """The smallest perturbation found, per example."""

    radius: Float64[Tensor, " batch"]
    """||x' - x|| in units of the norm, on the CPU; 0 where x itself is broken, infinite where nothing was found."""
    points: Inputs
    """x', verified; x itself where `radius` is zero or infinite."""
    attack: list[str]
    """The attack that found it; `clean` where x itself is broken, `none` where nothing was found."""


@dataclass(frozen=True)
class Effort:
    """How hard the attacks try."""

    budgets: int = 20
    """pgd-bisection: budgets tried per example, at most."""
    restarts: int = 1
    """pgd-bisection: random starts at every budget at which PGD from the last success fails."""
    pgd_steps: int = 14
    """pgd-bisection: steps per budget, start and each of three step sizes."""
    steps: int = 100
    """fab (per rival class), ddn, fmn: steps; deepfool: steps, at most."""


_DEFAULT_EFFORT = Effort()


def smallest_decision_change(
    network: nn.Module,
    inputs: Inputs,
    labels: Labels,
    threat: ThreatModel,
    *,
    seeds: Sequence[int],
    attacks: Sequence[str] = DEFAULT_ATTACKS,
    effort: Effort = _DEFAULT_EFFORT,
) -> Smallest:
    """Upper bound on r_A(x), the smallest `||d||` with x + d in the input range and `argmax_k S_k(x + d) != y`.

    `attacks` are names from `MINIMUM_NORM_ATTACKS`; `seeds` holds one number per example. pgd-bisection and fab treat
    every example alone, up to rounding. Not so ddn, fmn and deepfool, which work in units of the batch's median first-
    order radius (ddn draws from a generator seeded with the first example's seed where a gradient is zero). Points
    where a logit is not finite prove nothing and do not count; NaN logits at x count as a wrong decision. The network
    runs in evaluation mode; its mode and its parameters' gradients stay as they are. The radius of `threat` is the
    first budget where the gradient says none. Units: those of the norm. Raises UserError for an attack that is unknown,
    does not serve the norm or is not installed. An upper bound, not a guarantee.
    """

    def excess(logits: Logits, positions: Tensor) -> PerExample:
        return margin(logits, labels[positions])

    def intact(logits: Logits) -> Tensor:
        return answers(logits) == labels

    search = _Search(network, inputs.detach(), labels, threat, tuple(seeds), effort, excess, intact)
    return _run(search, attacks)


def smallest_confidence_loss(
    network: nn.Module,
    inputs: Inputs,
    labels: Labels,
    teacher_logits: Logits,
    threat: ThreatModel,
    *,
    seeds: Sequence[int],
    effort: Effort = _DEFAULT_EFFORT,
) -> Smallest:
    """Upper bound on r_B(x), the smallest `||d||` with x + d in the input range and `l_S(x + d) < l_T(x)`.

    `l = log(P_y / (1 - P_y))` compares the probabilities of the true class without saturation; T is the teacher at x
    itself. Only pgd-bisection, which descends on `l_S - l_T(x)`: other attacks know decisions only. `seeds`, verdicts
    on non-finite numbers, units and errors as in `smallest_decision_change`; a NaN of the teacher counts as broken at
    x. An upper bound, not a guarantee.
    """
    teacher_log_odds = log_odds(teacher_logits, labels)

    def excess(logits: Logits, positions: Tensor) -> PerExample:
        return log_odds(logits, labels[positions]) - teacher_log_odds[positions]

    def intact(logits: Logits) -> Tensor:
        return log_odds(logits, labels) >= teacher_log_odds

    search = _Search(network, inputs.detach(), labels, threat, tuple(seeds), effort, excess, intact)
    return _run(search, ("pgd-bisection",))


# The search and its grader --------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Search:
    """What is asked about a batch. The network always sees the whole batch when it judges: the same rounding twice."""

    network: nn.Module
    inputs: Tensor
    labels: Tensor
    threat: ThreatModel
    seeds: tuple[int, ...]
    effort: Effort
    excess: Excess
    intact: Callable[[Tensor], Tensor]
    """Maps the logits of the whole batch to True where nothing is broken; False where that cannot be told."""

    def standing(self) -> Bool[Tensor, " batch"]:
        """Which examples are not broken at x."""
        with torch.no_grad():
            return self.intact(self.network(self.inputs))

    def broken(self, points: Inputs) -> Bool[Tensor, " batch"]:
        """Which points break their example beyond doubt: all numbers finite, in the network's own arithmetic."""
        with torch.no_grad():
            logits = self.network(points)
        finite = points.flatten(1).isfinite().all(dim=1) & logits.isfinite().all(dim=1)
        return finite & ~self.intact(logits)

    def size(self, points: Inputs) -> Float64[Tensor, " batch"]:
        """||points - x|| in float64; on the CPU, because not every device has float64."""
        return self.threat.norm.size(points.cpu().double() - self.inputs.cpu().double())

    def place(self, points: Tensor, positions: Tensor) -> Inputs:
        """The batch with `points` in place of the inputs at `positions`."""
        batch = self.inputs.clone()
        batch[positions] = points.to(batch)
        return batch

    def first_order(self) -> PerExample:
        """excess / ||grad excess||_q at x, the first budget to try; the threat model's radius where it is no number."""
        points = self.inputs.clone().requires_grad_()
        with torch.enable_grad():
            values = self.excess(self.network(points), torch.arange(len(points), device=points.device))
            slopes = self.threat.norm.dual_size(input_gradient(values, points))
        radius = values.detach() / slopes
        return torch.where(radius.isfinite() & (radius > 0), radius, self.threat.radius).to(self.inputs)


def _run(search: _Search, attacks: Sequence[str]) -> Smallest:
    """The smallest of what each attack found; the earlier one where two are equal."""
    chosen = {name: _attack(name, search.threat.norm) for name in attacks}
    if len(search.seeds) != len(search.inputs):
        raise UserError(f"seeds: {len(search.seeds)} for {len(search.inputs)} examples, one per example is needed")
    with evaluating(search.network), frozen(search.network):
        standing = search.standing()
        radius = torch.where(standing.cpu(), math.inf, 0.0).double()
        best = Smallest(radius, search.inputs.clone(), ["none" if intact else "clean" for intact in standing.tolist()])
        if bool(standing.any()):
            for name, attack in chosen.items():
                best = _smaller(best, *_grade(search, attack.propose(search, standing)), name)
    return best


def _grade(search: _Search, proposals: Iterable[Inputs]) -> tuple[Tensor, Inputs]:
    """Size and place of the smallest verified proposal of one attack per example, refined; infinite without one."""
    best, radius = search.inputs.clone(), torch.full((len(search.inputs),), math.inf, dtype=torch.float64)
    for proposal in proposals:
        points = search.threat.clip(proposal.detach())
        size = torch.where(search.broken(points).cpu(), search.size(points), math.inf)
        closer = (size < radius).to(best.device)
        best, radius = torch.where(column(closer, best), points, best), torch.minimum(size, radius)
    best = _refine(search, best)
    return torch.where(radius.isfinite(), search.size(best), math.inf), best


def _refine(search: _Search, points: Inputs) -> Inputs:
    """The nearest verified point that bisection of the segment from x to each point meets; at worst the point."""
    best, low = points, torch.zeros(len(points), dtype=points.dtype, device=points.device)
    high = torch.ones_like(low)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        trial = search.threat.clip(search.inputs + column(middle, points) * (points - search.inputs))
        broken = search.broken(trial)
        best = torch.where(column(broken, points), trial, best)
        low, high = torch.where(broken, low, middle), torch.where(broken, middle, high)
    return best


def _smaller(best: Smallest, radius: Tensor, points: Inputs, name: str) -> Smallest:
    closer = radius < best.radius
    names = [name if is_closer else old for old, is_closer in zip(best.attack, closer.tolist(), strict=True)]
    closer_points = torch.where(column(closer.to(points.device), points), points, best.points)
    return Smallest(torch.minimum(radius, best.radius), closer_points, names)


# Our own attack -------------------------------------------------------------------------------------------------------


def _pgd_bisection(search: _Search, standing: Tensor) -> Iterable[Inputs]:
    """PGD at budgets of each example's own: doubled from the first-order radius until it succeeds, then bisected."""
    start = (1 + _CLOSE) * search.first_order()  # on an affine boundary rounding would decide
    reach = search.threat.farthest(search.inputs)
    low, high, best = torch.zeros_like(start), torch.full_like(start, math.inf), search.inputs.clone()
    generators = generator_each(search.seeds)
    for _ in range(search.effort.budgets):
        undecided = standing & (low < reach) & (high > (1 + _CLOSE) * low)
        if not bool(undecided.any()):
            break
        doubled = torch.maximum(2 * low, start)
        budget = torch.minimum(torch.where(high.isinf(), doubled, (low + high) / 2), reach)
        points, broken = _attempt(search, undecided, budget, best, generators)
        best = torch.where(column(broken, best), points, best)
        high = torch.where(broken, torch.minimum(search.size(best).to(high), budget), high)
        low = torch.where(undecided & ~broken, budget, low)
    return [best]


def _attempt(
    search: _Search, undecided: Tensor, budget: PerExample, best: Inputs, generators: Sequence[torch.Generator]
) -> tuple[Inputs, Tensor]:
    """PGD from the last success, pulled into the ball (x where there is none), then from random points."""
    points, broken = search.inputs.clone(), torch.zeros_like(undecided)
    for random in (False, *[True] * search.effort.restarts):
        left = (undecided & ~broken).nonzero()[:, 0]
        if len(left) == 0:
            break
        inputs, threat = search.inputs[left], search.threat.at(budget[left])
        if random:
            draws = threat.norm.random_each(inputs, budget[left], [generators[i] for i in left.tolist()])
            start = threat.clip(inputs + draws)
        else:
            start = threat.project(best[left], inputs)
        trial = search.place(_finer_and_finer(search, left, threat, start), left)
        won = search.broken(trial) & undecided & ~broken
        points, broken = torch.where(column(won, points), trial, points), broken | won
    return points, broken


def _finer_and_finer(search: _Search, left: Tensor, threat: ThreatModel, points: Inputs) -> Inputs:
    for relative_step in _STEPS:
        points = descend(
            search.network,
            _among(search.excess, left),
            search.inputs[left],
            threat,
            steps=search.effort.pgd_steps,
            start=points,
            relative_step=relative_step,
        )
    return points


def _among(excess: Excess, left: Tensor) -> Excess:
    return lambda logits, positions: excess(logits, left[positions])


def _fab(search: _Search, standing: Tensor) -> Iterable[Inputs]:
    """FAB (Croce & Hein 2020b), aimed at each of the nearest rivals in turn."""
    left = standing.nonzero()[:, 0]
    inputs, labels, unit = search.inputs[left], search.labels[left], search.threat.norm.unit(search.inputs)
    network, threat = Unscaled(search.network, unit), search.threat.at(0.0).unscaled(inputs)
    with torch.no_grad():
        rivals = by_score(search.network(inputs), labels)
    for rank in range(min(TARGETS, rivals.shape[1])):
        adversarial = fab(network, inputs / unit, labels, rivals[:, rank], threat, steps=search.effort.steps)
        yield search.place(adversarial * unit, left)


# Other people's attacks -----------------------------------------------------------------------------------------------


def _borrowed(attack: Callable[[Standing], Iterable[Inputs]]) -> Callable[[_Search, Tensor], Iterable[Inputs]]:
    """An attack that sees only the examples that still stand, as one that gives whole batches."""

    def propose(search: _Search, standing: Tensor) -> Iterable[Inputs]:
        left = standing.nonzero()[:, 0]
        examples = Standing(
            search.network,
            search.inputs[left],
            search.labels[left],
            search.threat,
            search.first_order()[left],
            search.effort.steps,
            search.seeds[int(left[0])],
        )
        return (search.place(points, left) for points in attack(examples))

    return propose


class _MinimumNorm(NamedTuple):
    """An attack, the norms it serves and whether it comes from foolbox."""

    propose: Callable[[_Search, Tensor], Iterable[Inputs]]
    """Maps the search and which examples still stand to whole batches of points."""
    norms: tuple[NormName, ...]
    foreign: bool = False


MINIMUM_NORM_ATTACKS = {
    "pgd-bisection": _MinimumNorm(_pgd_bisection, ("l1", "l2", "linf")),
    "fab": _MinimumNorm(_fab, ("l1", "l2", "linf")),
    "ddn": _MinimumNorm(_borrowed(ddn), ("l2",), foreign=True),
    "fmn": _MinimumNorm(_borrowed(fmn), ("l1", "l2", "linf"), foreign=True),
    "deepfool": _MinimumNorm(_borrowed(deepfool), ("l2", "linf"), foreign=True),
}
"""Every attack by name, with the norms that it serves; the last three need the optional extra `attacks`."""


@dataclass(frozen=True)
class Nearest(Attack):
    """One of `MINIMUM_NORM_ATTACKS` at a budget: the smallest perturbation that it finds, which may be beyond it."""

    attack: str

    @property
    def name(self) -> str:
        """As it stands in rows."""
        return self.attack

    def require(self, threat: ThreatModel) -> None:
        """Raise UserError where it does not serve the norm or is not installed."""
        require_attacks([self.attack], threat.norm)

    def propose(
        self, network: nn.Module, inputs: Inputs, labels: Labels, threat: ThreatModel, seeds: Sequence[int]
    ) -> Inputs:
        """Verified points; the input where nothing was found."""
        return smallest_decision_change(network, inputs, labels, threat, seeds=seeds, attacks=[self.attack]).points


def require_attacks(names: Sequence[str], norm: Norm) -> None:
    """Raise UserError where an attack is unknown, does not serve the norm or is not installed."""
    for name in names:
        _attack(name, norm)


def _attack(name: str, norm: Norm) -> _MinimumNorm:
    if name not in MINIMUM_NORM_ATTACKS:
        raise UserError(f"attacks: unknown name '{name}', choose from {', '.join(MINIMUM_NORM_ATTACKS)}")
    attack = MINIMUM_NORM_ATTACKS[name]
    if norm.name not in attack.norms:
        raise UserError(f"attacks: '{name}' serves {', '.join(attack.norms)}, not {norm.name}")
    if attack.foreign:
        foolbox_for(name)
    return attack
