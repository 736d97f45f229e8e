"""The smallest perturbation that attacks find: upper bounds of the true radii r_A and r_B.

Attacks only propose points. One grader keeps those that the network itself confirms and measures their size.
"""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from robust_student.attacks import UnitBox
from robust_student.margins import input_gradient, log_odds, margin
from robust_student.norms import Norm
from robust_student.tensors import InputRange, Inputs, Labels, Logits, PerExample, UserError, column, evaluating

ATTACKS = ("pgd-bisection", "fab", "ddn", "fmn", "deepfool")
"""Minimum-norm attacks by name; the last three come with the extra `attacks` (foolbox)."""
DEFAULT_ATTACKS = ("pgd-bisection", "fab")
_STEPS, _ROUNDS, _DOUBLINGS = 20, 8, 24  # PGD steps a budget; bisections of the budget; doublings until one succeeds
_SEGMENT_ROUNDS = 12  # bisections along the segment from x to a point that was found
_FAB_CLASSES = 10  # up to here FAB looks at every class; above, at the nearest nine, one after the other

Excess: TypeAlias = Callable[[Logits, Tensor], PerExample]
"""From logits and the positions of their examples: at least 0 while the property stands, below 0 when it is lost."""


class Smallest(NamedTuple):
    """The best of several attacks, per example."""

    radius: PerExample
    """Size of the smallest perturbation found (float64, units of the norm); 0: lost at x; infinite: none found."""
    points: Inputs
    """Where the property is lost (x itself where nothing was found)."""
    attack: list[str]
    """Which attack found it; `clean`: lost at x; `none`: none did."""


def smallest_decision_change(
    network: nn.Module,
    inputs: Inputs,
    labels: Labels,
    *,
    norm: Norm,
    input_range: InputRange,
    seeds: Sequence[int],
    attacks: Sequence[str] = DEFAULT_ATTACKS,
) -> Smallest:
    """Upper bound of r_A: the smallest perturbation in the range, found by `attacks`, that changes the decision.

    `pgd-bisection` (PGD on the margin, budget by bisection), `fab` (Croce & Hein 2020), and with foolbox `ddn` (Rony et
    al. 2019; l2), `fmn` (Pintor et al. 2021), `deepfool` (Moosavi-Dezfooli et al. 2016). `seeds`, one per example,
    make the random starts of pgd-bisection independent of batching. Raises UserError for an unknown attack,
    and where the extra is missing.
    """

    def excess(logits: Tensor, positions: Tensor) -> Tensor:
        # The decision is the argmax: a tie with a class of smaller number has changed it already.
        value, changed = margin(logits, labels[positions]), logits.argmax(dim=1) != labels[positions]
        return torch.where(changed, value.clamp_max(-torch.finfo(value.dtype).tiny), value)

    hunt = _Hunt(network, inputs, norm, input_range, excess)
    with evaluating(network):
        for name in attacks:
            left = torch.arange(len(labels), device=labels.device)[hunt.open]
            if len(left) == 0:
                break
            if name == "pgd-bisection":
                hunt.bisect(name, left, [seeds[k] for k in left.tolist()])
            elif name == "fab":
                hunt.judge(name, left, _fab(network, inputs[left], labels[left], norm, input_range, seeds))
            elif name in ATTACKS:
                hunt.judge(name, left, _foolbox(name, network, inputs[left], labels[left], norm, input_range))
            else:
                raise UserError(f"attack '{name}': unknown; choose from {', '.join(ATTACKS)}")
        return hunt.result()


def smallest_confidence_loss(
    network: nn.Module,
    inputs: Inputs,
    labels: Labels,
    teacher_logits: Logits,
    *,
    norm: Norm,
    input_range: InputRange,
    seeds: Sequence[int],
) -> Smallest:
    """Upper bound of r_B: the smallest perturbation found, by PGD on the log-odds, that takes S_y below T_y(x)."""
    wanted = log_odds(teacher_logits, labels)

    def excess(logits: Tensor, positions: Tensor) -> Tensor:
        return log_odds(logits, labels[positions]) - wanted[positions]

    hunt = _Hunt(network, inputs, norm, input_range, excess)
    with evaluating(network):
        left = torch.arange(len(labels), device=labels.device)[hunt.open]
        if len(left):
            hunt.bisect("pgd-bisection", left, [seeds[k] for k in left.tolist()])
        return hunt.result()


@dataclass(eq=False)
class _Hunt:
    """The smallest confirmed perturbation so far of every example."""

    network: nn.Module
    inputs: Tensor
    norm: Norm
    input_range: InputRange
    excess: Excess

    def __post_init__(self) -> None:
        count = len(self.inputs)
        with torch.no_grad(), evaluating(self.network):
            lost = self.excess(self.network(self.inputs), torch.arange(count, device=self.inputs.device)) < 0
        self.open = ~lost
        self.best = torch.where(lost, 0.0, torch.inf).double()
        self.points = self.inputs.detach().clone()
        self.names = ["clean" if broken else "none" for broken in lost.tolist()]

    def judge(self, name: str, positions: Tensor, points: Tensor) -> Bool[Tensor, " proposed"]:
        """Keep the confirmed points that are smaller than the best; says which were confirmed."""
        points = self.input_range.clip(torch.nan_to_num(points.detach()).to(self.inputs))
        sizes = self.norm.size((points - self.inputs[positions]).double())
        with torch.no_grad():
            confirmed = self.excess(self.network(points), positions) < 0
        better = confirmed & (sizes < self.best[positions])
        chosen = positions[better]
        self.best[chosen], self.points[chosen] = sizes[better], points[better]
        for k in chosen.tolist():
            self.names[k] = name
        return confirmed

    def bisect(self, name: str, positions: Tensor, seeds: Sequence[int]) -> None:
        """PGD at budgets that double until one succeeds, then halve the gap to the largest that failed."""
        generators = [torch.Generator().manual_seed(seed % 2**32) for seed in seeds]
        draws = [
            self.norm.random(self.inputs[k][None].cpu(), 1.0, generator)
            for k, generator in zip(positions.tolist(), generators, strict=True)
        ]
        start = torch.cat(draws).to(self.inputs)
        default = self.norm.default_radius(self.input_range, tuple(self.inputs.shape[1:]))
        low = torch.zeros(len(positions), dtype=torch.float64, device=self.inputs.device)
        high = self.best[positions]
        budget = torch.where(high.isfinite(), high / 2, default)
        for _ in range(_DOUBLINGS):
            growing = (high.isinf()).nonzero()[:, 0]
            if len(growing) == 0:
                break
            self._try(name, positions, growing, start, budget, low, high)
            budget = torch.where(high.isinf(), 2 * budget, budget)
        for _ in range(_ROUNDS):
            finite = high.isfinite().nonzero()[:, 0]
            self._try(name, positions, finite, start, (low + high) / 2, low, high)

    def _try(
        self, name: str, positions: Tensor, part: Tensor, start: Tensor, budget: Tensor, low: Tensor, high: Tensor
    ) -> None:
        """Attack the `part` of the positions at their budgets and move the ends of their brackets."""
        if len(part) == 0:
            return
        chosen, reach = positions[part], budget[part].to(self.inputs)
        points = self._pgd(chosen, reach, start[part])
        confirmed = self.judge(name, chosen, points)
        low[part[~confirmed]] = budget[part[~confirmed]]
        high[part] = torch.minimum(high[part], self.best[chosen])

    def _pgd(self, positions: Tensor, reach: Tensor, start: Tensor) -> Tensor:
        """The last point of PGD that lost the property, or else the last one; one budget per example."""
        inputs = self.inputs[positions]
        wide = column(reach, inputs)
        points = self.input_range.clip(inputs + wide * start)
        found = points.clone()
        lost = torch.zeros(len(points), dtype=torch.bool, device=points.device)
        for step in range(_STEPS + 1):
            points = points.detach().requires_grad_()
            value = self.excess(self.network(points), positions)
            found = torch.where(column(value < 0, points), points.detach(), found)
            lost |= value < 0
            if step == _STEPS or bool(lost.all()):
                break
            uphill = self._feasible(points.detach(), input_gradient(-value, points))
            size = 2.5 / _STEPS * (1 - step / _STEPS) * 2
            moved = (points.detach() - inputs) / wide.clamp_min(1e-30) + size * uphill
            points = self.input_range.clip(inputs + wide * self.norm.project(moved, 1.0))
        return torch.where(column(lost, found), found, points.detach())

    def _feasible(self, points: Tensor, gradient: Tensor) -> Tensor:
        """The norm's direction of a gradient without the elements that would leave the range."""
        outward = (points <= self.input_range.lower) & (gradient < 0)
        outward |= (points >= self.input_range.upper) & (gradient > 0)
        return self.norm.direction(gradient.masked_fill(outward, 0.0))

    def result(self) -> Smallest:
        """Shorten every point along its segment to x, then report."""
        found = ((self.best > 0) & self.best.isfinite()).nonzero()[:, 0]
        if len(found):
            inputs, ends = self.inputs[found], self.points[found].clone()
            low, high = torch.zeros(len(found)).to(self.inputs), torch.ones(len(found)).to(self.inputs)
            for _ in range(_SEGMENT_ROUNDS):
                middle = (low + high) / 2
                points = inputs + column(middle, inputs) * (ends - inputs)
                names = list(self.names)
                confirmed = self.judge("", found, points)
                self.names = names
                high, low = torch.where(confirmed, middle, high), torch.where(confirmed, low, middle)
        return Smallest(self.best.cpu(), self.points, self.names)


def _fab(
    network: nn.Module, inputs: Tensor, labels: Tensor, norm: Norm, input_range: InputRange, seeds: Sequence[int]
) -> Tensor:
    """Points proposed by FAB without restarts, so that no budget enters; deterministic."""
    from pyautoattack import AutoAttack as Engine

    radius = 8 * norm.default_radius(input_range, tuple(inputs.shape[1:]))
    box = UnitBox(network, inputs, norm, radius, input_range)
    name = {math.inf: "Linf", 2.0: "L2", 1.0: "L1"}[norm.p]
    engine = Engine(box, norm=name, eps=radius / box.length, seed=seeds[0] % 2**32, device=inputs.device).fab
    points = box.encode(inputs)
    classes = network(inputs[:1]).shape[1]
    if classes <= _FAB_CLASSES:
        return box.decode(engine.attack_single_run(points, labels)).detach()
    best, sizes = inputs.clone(), torch.full((len(inputs),), math.inf, device=inputs.device)
    for target in range(2, _FAB_CLASSES + 1):
        engine.target_class = target
        found = box.decode(engine.attack_single_run(points, labels, is_targeted=True)).detach()
        size = norm.size(found - inputs)
        closer = (size > 0) & (size < sizes)
        best, sizes = torch.where(column(closer, inputs), found, best), torch.where(closer, size, sizes)
    return best


def _foolbox(
    name: str, network: nn.Module, inputs: Tensor, labels: Tensor, norm: Norm, input_range: InputRange
) -> Tensor:
    """Points proposed by one of foolbox's minimum-norm attacks."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its own dependencies
            import foolbox
    except ImportError:
        raise UserError(f"attack '{name}': needs foolbox; pip install 'robust-student[attacks]'") from None
    engine: Any = foolbox
    library = engine.attacks
    builders: dict[tuple[str, float], Callable[[], Any]] = {
        ("ddn", 2.0): lambda: library.DDNAttack(steps=100),
        ("fmn", 2.0): lambda: library.L2FMNAttack(steps=100, max_stepsize=0.1),
        ("fmn", math.inf): lambda: library.LInfFMNAttack(steps=100, max_stepsize=0.1),
        ("fmn", 1.0): lambda: library.L1FMNAttack(steps=100, max_stepsize=0.1),
        ("deepfool", 2.0): lambda: library.L2DeepFoolAttack(steps=50),
        ("deepfool", math.inf): lambda: library.LinfDeepFoolAttack(steps=50),
    }
    build = builders.get((name, norm.p))
    if build is None:
        raise UserError(f"attack '{name}': does not work with norm {norm.name}")
    radius = 8 * norm.default_radius(input_range, tuple(inputs.shape[1:]))
    box = UnitBox(network, inputs, norm, radius, input_range)
    model = engine.PyTorchModel(box.eval(), bounds=(0.0, 1.0), device=inputs.device)
    _, points, _ = build()(model, box.encode(inputs).float(), labels, epsilons=None)
    return box.decode(points.to(inputs)).detach()
