"""Auto-PGD (Croce & Hein 2020): ascent with momentum that adapts its own step, example by example.

Examples that are broken leave the batch at once. The L1 variant is that of Croce & Hein 2021 ("Mind the box").
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from jaxtyping import Int64
from torch import Tensor, nn
from torch.nn import functional

from robust_student.attacks.attack import Attack
from robust_student.attacks.unscaled import in_turns, without_scale
from robust_student.core.margins import by_score, input_gradient
from robust_student.core.rng import generators
from robust_student.core.tensors import Inputs, Labels, Logits, PerExample, answers, column
from robust_student.core.threat_model import ThreatModel

_STEPS = 100
_TARGETS, _L1_TARGETS = 9, 5  # rival classes that are aimed at, those of largest score first
_L1_RESTARTS = 5  # of the untargeted attack
_NEW = 0.75  # share of the new step in a move; the rest is the last move
_RISING = 0.75  # the step is halved where at most this share of the last steps raised the loss
_L1_BALLS = ((3.0, 0.3), (2.0, 0.3), (1.0, 0.4))  # radius in units of R, share of the steps
_L1_WINDOW = 0.04  # steps between two checks, as a share
_L1_SHRINK, _L1_LEAST = 1.5, 0.1  # factor by which steps and sparsity shrink; least step in units of the radius

RaisedLoss: TypeAlias = Callable[[Logits, Int64[Tensor, " batch"]], PerExample]
"""Maps logits and the examples' positions in the whole batch to what the attack raises."""


def cross_entropy(labels: Labels) -> RaisedLoss:
    """CE(z, y)."""
    return lambda logits, positions: functional.cross_entropy(logits, labels[positions], reduction="none")


def targeted_dlr(labels: Labels, targets: Labels) -> RaisedLoss:
    """-(z_y - z_t) / (z_1 - (z_3 + z_4) / 2), z_1 >= z_2 >= ... the sorted logits (Croce & Hein 2020, equation 7)."""

    def loss(logits: Tensor, positions: Tensor) -> Tensor:
        top = logits.topk(4, dim=1).values
        spread = top[:, 0] - (top[:, 2] + top[:, 3]) / 2 + 1e-12
        return _lead(logits, targets[positions], labels[positions]) / spread

    return loss


def targeted_margin(labels: Labels, targets: Labels) -> RaisedLoss:
    """z_t - z_y: for fewer than four classes, where the targeted DLR loss does not exist."""
    return lambda logits, positions: _lead(logits, targets[positions], labels[positions])


def _lead(logits: Tensor, ahead: Tensor, behind: Tensor) -> Tensor:
    return (logits.gather(1, ahead[:, None]) - logits.gather(1, behind[:, None]))[:, 0]


@dataclass(frozen=True)
class Apgd(Attack):
    """APGD on cross-entropy, or on the targeted DLR loss (four classes or more) or margin, rival after rival."""

    loss: Literal["ce", "t", "margin"]
    steps: int = _STEPS
    """Of each run."""

    @property
    def name(self) -> str:
        """As it stands in rows."""
        return f"apgd-{self.loss}"

    @property
    def passes(self) -> int:
        """Of the steps."""
        return 3 * self.steps * (1 if self.loss == "ce" else _TARGETS)

    def propose(
        self, network: nn.Module, inputs: Inputs, labels: Labels, threat: ThreatModel, seeds: Sequence[int]
    ) -> Inputs:
        """A misclassified point for every example for which one was met; the input for the others."""

        def search(network: nn.Module, inputs: Tensor, threat: ThreatModel) -> Tensor:
            with torch.no_grad():
                rivals = by_score(network(inputs), labels)

            def run(turn: int, standing: Tensor) -> Tensor:
                truth = labels[standing]
                loss = cross_entropy(truth)
                if self.loss != "ce":
                    loss = (targeted_dlr if self.loss == "t" else targeted_margin)(truth, rivals[standing, turn])
                streams = generators([seeds[i] for i in standing.tolist()], self.name, turn)
                return apgd(network, loss, inputs[standing], truth, threat, streams, steps=self.steps)

            return in_turns(inputs, self._turns(threat, rivals.shape[1]), run)

        return without_scale(network, inputs, threat, search)

    def _turns(self, threat: ThreatModel, rivals: int) -> int:
        """Restarts, or rival classes."""
        if self.loss == "ce":
            return _L1_RESTARTS if threat.norm.p == 1 else 1
        return min(_L1_TARGETS if threat.norm.p == 1 else _TARGETS, rivals)


def apgd(
    network: nn.Module,
    loss: RaisedLoss,
    inputs: Inputs,
    labels: Labels,
    threat: ThreatModel,
    generators: Sequence[torch.Generator],
    *,
    steps: int = _STEPS,
) -> Inputs:
    """A misclassified point of the set for every example for which one was met; the input for the others.

    z <- P(z + a (P(z + s d(g)) - z) + (1 - a)(z - z_previous)) with a = 0.75, d the norm's direction and s the step,
    2R at first, halved at checks where the loss oscillates or has stopped rising (Croce & Hein 2020, algorithm 1).
    Starts at a random point of the ball's surface; one generator per example.
    The norm must have no per-feature scale.
    """
    adversarial = inputs.clone()
    if threat.norm.p == 1:
        _in_shrinking_balls(network, loss, inputs, labels, threat, generators, steps, adversarial)
    else:
        run = _Climb.begin(network, loss, inputs, labels, threat.surface(inputs, generators), 2 * threat.budget)
        run.climb(threat, steps, adversarial)
    return adversarial


@dataclass
class _State:
    """What every example that still stands carries along; all tensors `(standing, ...)`."""

    positions: Tensor
    """In the whole batch."""
    inputs: Tensor
    labels: Tensor
    points: Tensor
    previous: Tensor
    gradient: Tensor
    value: Tensor
    """The loss at the points."""
    best_points: Tensor
    best_gradient: Tensor
    best: Tensor
    step: Tensor
    rises: Tensor
    """How many steps since the last check raised the loss."""
    best_at_check: Tensor
    halved: Tensor
    """Whether the last check halved the step."""
    changed: Tensor
    """L1: number of elements in which the best point differed from the input at the last check."""
    share: Tensor
    """L1: share of the elements that a step moves."""


@dataclass
class _Climb:
    """One run of the attack."""

    network: nn.Module
    loss: RaisedLoss
    state: _State

    @classmethod
    def begin(
        cls, network: nn.Module, loss: RaisedLoss, inputs: Tensor, labels: Tensor, points: Tensor, step: float
    ) -> "_Climb":
        zero = inputs.new_zeros(len(inputs))
        state = _State(
            positions=torch.arange(len(inputs), device=inputs.device),
            inputs=inputs,
            labels=labels,
            points=points,
            previous=points,
            gradient=torch.zeros_like(points),
            value=zero + math.inf,
            best_points=points,
            best_gradient=torch.zeros_like(points),
            best=zero - math.inf,
            step=zero + step,
            rises=zero,
            best_at_check=zero - math.inf,
            halved=torch.ones_like(zero, dtype=torch.bool),
            changed=zero,
            share=zero,
        )
        return cls(network, loss, state)

    def climb(self, threat: ThreatModel, steps: int, adversarial: Tensor) -> None:
        """Linf and L2."""
        window, least, less = max(int(0.22 * steps), 1), max(int(0.06 * steps), 1), max(int(0.03 * steps), 1)
        state = self.state
        self._look(adversarial)
        state.best_at_check, since = state.best, 0
        for step in range(steps):
            if len(state.positions) == 0:
                return
            new = _NEW if step > 0 else 1.0
            ahead = state.points + column(state.step, state.points) * threat.norm.direction(state.gradient)
            ahead = threat.nearest(ahead, state.inputs)
            ahead = state.points + new * (ahead - state.points) + (1 - new) * (state.points - state.previous)
            state.previous, state.points = state.points, threat.nearest(ahead, state.inputs)
            self._look(adversarial)
            since += 1
            if since == window:
                self._check(window)
                since, window = 0, max(window - less, least)

    def climb_l1(self, threat: ThreatModel, steps: int, adversarial: Tensor | None) -> None:
        """L1: steps along the signs of the steepest elements; the sparser the best point, the fewer."""
        window, since, state = max(int(_L1_WINDOW * steps), 1), 0, self.state
        state.changed = _changed(state.points, state.inputs)
        state.share = state.changed / state.inputs.shape[1:].numel() / _L1_SHRINK
        self._look(adversarial)
        for _ in range(steps):
            if len(state.positions) == 0:
                return
            moved = column(state.step, state.points) * _sparse_direction(state.gradient, state.share)
            state.points = threat.nearest(state.points + moved, state.inputs)
            self._look(adversarial)
            since += 1
            if since == window:
                self._check_l1(threat.budget)
                since = 0

    def _look(self, adversarial: Tensor | None) -> None:
        """Loss and gradient at the points; where `adversarial` is given, broken examples are put there and dropped."""
        state = self.state
        points = state.points.detach().requires_grad_()
        with torch.enable_grad():
            logits = self.network(points)
            values = self.loss(logits, state.positions)
            gradient = input_gradient(values, points)
        values = values.detach()
        state.rises = state.rises + (values > state.value)
        state.value, state.gradient = values, gradient.nan_to_num()
        better = values > state.best
        state.best = torch.where(better, values, state.best)
        state.best_points = torch.where(column(better, points), state.points, state.best_points)
        state.best_gradient = torch.where(column(better, points), state.gradient, state.best_gradient)
        if adversarial is not None:
            broken = answers(logits.detach()) != state.labels
            if bool(broken.any()):
                adversarial[state.positions[broken]] = state.points[broken]
                for field in dataclasses.fields(state):
                    setattr(state, field.name, getattr(state, field.name)[~broken])

    def _check(self, window: int) -> None:
        """Halve the step and return to the best point where the loss oscillates or has not risen since last time."""
        state = self.state
        stalled = ~state.halved & (state.best <= state.best_at_check)
        state.halved = (state.rises <= _RISING * window) | stalled
        state.step = torch.where(state.halved, state.step / 2, state.step)
        self._return_to_best(state.halved)
        state.best_at_check, state.rises = state.best, torch.zeros_like(state.rises)

    def _check_l1(self, radius: float) -> None:
        """Where the best point has become sparser, start from it again with the full step; else shorten the step."""
        state = self.state
        changed = _changed(state.best_points, state.inputs)
        sparser = changed < 0.95 * state.changed
        state.share = changed / state.inputs.shape[1:].numel() / _L1_SHRINK
        shorter = (state.step / _L1_SHRINK).clamp_min(_L1_LEAST * radius)
        state.step = torch.where(sparser, torch.full_like(state.step, radius), shorter)
        state.changed = changed
        self._return_to_best(sparser)

    def _return_to_best(self, which: Tensor) -> None:
        state, where = self.state, column(which, self.state.points)
        state.points = torch.where(where, state.best_points, state.points)
        state.gradient = torch.where(where, state.best_gradient, state.gradient)


def _in_shrinking_balls(
    network: nn.Module,
    loss: RaisedLoss,
    inputs: Tensor,
    labels: Tensor,
    threat: ThreatModel,
    generators: Sequence[torch.Generator],
    steps: int,
    adversarial: Tensor,
) -> None:
    """From the ball of radius 3R through that of 2R into that of radius R; only in the last do successes count."""
    points = threat.at(_L1_BALLS[0][0] * threat.budget).surface(inputs, generators)
    left = steps
    for factor, share in _L1_BALLS:
        ball = threat.at(factor * threat.budget)
        count = left if factor == 1 else min(math.ceil(share * steps), left)
        left -= count
        run = _Climb.begin(network, loss, inputs, labels, ball.nearest(points, inputs), ball.budget)
        run.climb_l1(ball, count, adversarial if factor == 1 else None)
        points = run.state.best_points  # of all examples: none leaves before the last ball


def _changed(points: Tensor, inputs: Tensor) -> Tensor:
    return (points != inputs).flatten(1).sum(dim=1).to(points)


def _sparse_direction(gradient: Tensor, share: Tensor) -> Tensor:
    """Signs of the steepest `share` of the elements, of unit L1 length."""
    steepness = gradient.flatten(1).abs()
    size = steepness.shape[1]
    rank = ((1 - share) * size).long().clamp(0, size - 1)
    least = steepness.sort(dim=1).values.gather(1, rank[:, None])
    signs = torch.where(steepness >= least, gradient.flatten(1).sign(), 0.0)
    return (signs / signs.abs().sum(dim=1, keepdim=True).clamp_min(1.0)).view_as(gradient)
