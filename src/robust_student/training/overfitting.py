"""Catastrophic overfitting of a cheap ascent: noticed on validation, undone, and cured by one more ascent step."""

import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from robust_student.attacks.ascent import ascend
from robust_student.attacks.pgd import pgd
from robust_student.core.margins import log_odds
from robust_student.core.module_state import device_of, evaluating
from robust_student.core.tensors import answers
from robust_student.data.examples import Examples
from robust_student.data.samples import stratified_sample
from robust_student.models.model import Model
from robust_student.objectives.robust_student import RobustStudentObjective
from robust_student.objectives.secant import SecantSettings
from robust_student.training.balanced import BalancedClasses, own_positions

_EXAMPLES = 250  # compared, at most
_STEPS = 10  # of the strong attack
_PASSES = 12  # of both attacks
_COST = 0.1  # of the passes of a training with two passes a step, which all looks may cost
_CHEAP = 3  # ascent steps, beyond which overfitting of this kind is not known
_GOOD = 0.8  # of the best robustness, above which an epoch is worth going back to
_LEFT = 0.5  # of the best robustness, below which it has collapsed
_WIDER = 1.1  # times the radius, beyond which robustness cannot be compared any more
_ERRORS = 3.0  # standard errors that a collapse must be worth


@dataclass(frozen=True)
class OneAgainstMany:
    """Balanced accuracy under one step of ascent and under many, on the same examples at the radius of training."""

    one_step: float
    many_steps: float
    radius: float

    @property
    def gap(self) -> float:
        """What the one step does not find."""
        return self.one_step - self.many_steps


class OverfittingGuard:
    """Watches a student that learns at the points of a cheap ascent, epoch by epoch.

    Such a student can learn to mislead the ascent instead of withstanding it: from one epoch to the next it is right
    after one step and wrong after many (Wong et al. 2020, arXiv 2001.03994; Andriushchenko & Flammarion 2020, arXiv
    2007.02617). An epoch is that where accuracy under many steps is below half of the best so far and the gap to one
    step is twice as wide as then, both by more than three standard errors.

    The cure is one more ascent step: half a step, or a random start, led there again (docs/objectives.md).
    """

    def __init__(self, objective: RobustStudentObjective, examples: Examples, trained: int, seed: int) -> None:
        """Of the objective that is trained on `trained` examples an epoch; validation `examples` are sampled."""
        self.objective, self.seed = objective, seed
        count = min(_EXAMPLES, len(examples))
        self.sample = examples.subset(stratified_sample(examples.labels, count, seed))
        self.classes = BalancedClasses(self.sample.labels)
        self.best: OneAgainstMany | None = None
        """Of the good epoch with the best accuracy under many steps."""
        self.good: dict[str, Any] | None = None
        """State of the training after the last good epoch, and its number."""
        self.every = math.ceil(count * _PASSES / (_COST * 2 * trained))
        """Epochs from one look to the next: one after each costs too much where they are short."""

    def due(self, epoch: int, *, last: bool) -> bool:
        """Whether to look after this epoch: the ascent must be cheap enough to be overfitted."""
        return is_cheap(self.objective.settings.secant) and (last or epoch % self.every == 0)

    def measure(self, model: Model) -> OneAgainstMany:
        """The model's mode is restored."""
        threat, device = self.objective.threat(self.sample.shape), device_of(model)
        labels = self.sample.labels.cpu()
        start = threat.random(self.sample.floats().cpu(), torch.Generator().manual_seed(self.seed))
        own = own_positions(len(self.sample))
        with evaluating(model):
            inputs, truth = self.sample.floats(own).to(device), labels[own].to(device)
            once = ascend(
                model,
                lambda _, logits: -log_odds(logits, truth),
                inputs,
                inputs,
                threat,
                steps=1,
                step_size=threat.radius,
            )
            often = pgd(model, inputs, truth, threat, steps=_STEPS, start=start[own].to(device))
            right = [answers(model.logits(points)) == labels[own] for points in (once, often)]
        one_step, many_steps = (self.classes.accuracy(self.classes.hits([part], device)) for part in right)
        return OneAgainstMany(one_step, many_steps, threat.budget)

    def close_epoch(
        self, model: Model, epoch: int, moving: Callable[[], dict[str, Any]], *, useful: bool
    ) -> tuple[OneAgainstMany, bool]:
        """What was measured after an epoch, and whether it overfitted.

        Args:
            model: the student.
            epoch: its number.
            moving: gives the state of the training, which is kept of good epochs.
            useful: whether the student is better than guessing. One that is not withstands everything.
        """
        measured = self.measure(model)
        if self.best is None or measured.radius > _WIDER * self.best.radius:
            comparable = useful
        elif _collapsed(measured, self.best, self.classes.equivalent):
            return measured, True
        else:
            comparable = useful and measured.many_steps > self.best.many_steps
        if comparable:
            self.best = measured
        if useful and self.best is not None and measured.many_steps >= _GOOD * self.best.many_steps:
            self.good = {**deepcopy(moving()), "epoch": epoch}
        return measured, False

    def cure(self, epoch: int) -> str:
        """Go on from the last good epoch with one more ascent step of the usual length; what that is, for people."""
        assert self.good is not None  # what nothing good came before cannot have collapsed
        secant, first = self.objective.settings.secant, self.good["epoch"] + 1
        steps = secant.steps + 1
        self.objective.use_secant(secant.model_copy(update={"steps": steps, "step": None}))
        if not is_cheap(self.objective.settings.secant):
            self.good = None
        which = f"epochs {first} to {epoch}" if first < epoch else f"epoch {epoch}"
        return (
            f"{which} undone: catastrophic overfitting (right after one step of an attack, wrong after many); going on "
            f"from epoch {first - 1} with --secant.steps {steps}"
        )

    def state(self) -> dict[str, Any]:
        """All that a later `restore` needs."""
        secant, best = self.objective.settings.secant, self.best
        return {
            "steps": secant.steps,
            "step": secant.step,
            "best": None if best is None else [best.one_step, best.many_steps, best.radius],
            "good": self.good,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        secant = self.objective.settings.secant
        self.objective.use_secant(secant.model_copy(update={"steps": state["steps"], "step": state["step"]}))
        self.best = None if state["best"] is None else OneAgainstMany(*state["best"])
        self.good = state["good"]


def guard_of(objective: nn.Module, examples: Examples, trained: int, seed: int) -> OverfittingGuard | None:
    """A guard where the objective has an ascent so cheap that it needs one."""
    if not isinstance(objective, RobustStudentObjective) or not is_cheap(objective.settings.secant):
        return None
    return OverfittingGuard(objective, examples, trained, seed)


def is_cheap(secant: SecantSettings) -> bool:
    """Whether an ascent has so few steps that a student can learn to mislead it."""
    return secant.weight > 0 and secant.steps < _CHEAP


def _collapsed(now: OneAgainstMany, best: OneAgainstMany, examples: float) -> bool:
    error = math.sqrt(best.many_steps * (1 - best.many_steps) / examples)
    fell = best.many_steps - now.many_steps > _ERRORS * error and now.many_steps < _LEFT * best.many_steps
    return fell and now.gap > max(2 * best.gap, best.gap + _ERRORS * error)
