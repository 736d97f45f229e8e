"""A floor under clean accuracy: the radius of the perturbations shrinks and grows during training so that it holds."""

import math
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from robust_student.models.model import Model
from robust_student.objectives.robust_student import RobustStudentObjective
from robust_student.training.selection import Validation

_AVERAGED = 3
"""Checks whose mean decides: a single state of the network at a high learning rate is noisy."""
_SHRINK, _GROW = 0.8, 1.25
_LEAST = 0.02
"""Share of the radius below which it does not shrink."""
_CAUTION = 0.5
"""Standard errors by which the accuracy must be below the floor before the radius shrinks."""
_NEAR = 0.005
_RAMP = 0.3
"""Share of the training in which a target radius is reached, from a quarter of it."""


@dataclass(frozen=True)
class Reference:
    """The clean validation accuracy of the network that a student is compared with, over its training."""

    name: str
    """For people."""
    curve: tuple[tuple[float, float], ...]
    """(progress in (0, 1], accuracy in [0, 1]), growing in progress."""
    rising: bool = True
    """Whether it begins at 0, as a network in training does."""

    @property
    def accuracy(self) -> float:
        """At the end."""
        return self.curve[-1][1]

    def at(self, progress: float) -> float:
        """At the same share of the training: on a straight line between the known points."""
        known = [(0.0, 0.0 if self.rising else self.accuracy), *self.curve]
        return float(np.interp(progress, [p for p, _ in known], [a for _, a in known]))


@dataclass(frozen=True)
class Plan:
    """How the radius moves."""

    mode: Literal["keep", "target"]
    """keep: so that the floor holds; target: up to R whatever it costs."""
    drop: float
    """What may be lost against the reference, in [0, 1]."""
    largest: float = 1.0
    """Times R: to there it may grow."""
    first: float = 1.0
    """Times R: what it is at first."""
    teacher: float | None = None
    """The teacher's clean validation accuracy in [0, 1]: the radius grows only while the student is about as accurate,
    and shrinks, too, where clean accuracy falls behind what the student itself has reached; None: neither."""


@dataclass
class Floor:
    """What moves the scale s of an objective's radius, R(t) = s(t) R, by checks on validation.

    keep: s starts at `first`. Where the mean accuracy of the last checks is below the floor (the reference at the
    same share of its training, minus the drop) by more than half a standard error, s is multiplied by 0.8; where it
    is above the floor, by 1.25, up to `largest`. This is a dual ascent on log s with one bit of the slack. With
    `teacher`, s grows only while the student is about as accurate as the teacher, so that a network that is small
    for its task keeps its accuracy; and s shrinks, and grows no more, where the mean is below the best such mean so
    far by more than a standard error. target: s grows to 1 whatever it costs.
    """

    objective: RobustStudentObjective
    validation: Validation
    budget: float
    """R."""
    reference: Reference
    plan: Plan
    checks: int
    """How often, over the whole training."""
    _recent: deque[float] = field(default_factory=lambda: deque(maxlen=_AVERAGED))

    _best: float = 0.0
    """The best mean of checks."""
    _limit: float = 1.0
    """Times R: to there it may grow now."""

    def __post_init__(self) -> None:
        """Set the first radius."""
        self._limit = self.plan.largest
        self._set(self.plan.first if self.plan.mode == "keep" else 0.25)

    @property
    def radius(self) -> float:
        """R(t)."""
        return self.objective.scale * self.budget

    @property
    def least(self) -> float:
        """The accuracy that the student must have in the end."""
        return self.reference.accuracy - self.plan.drop

    def due(self, done: int, steps: int) -> bool:
        """Whether a check follows this step."""
        return done * self.checks // steps > (done - 1) * self.checks // steps

    def check(self, model: Model, progress: float) -> None:
        """Move the radius; the model's mode is restored."""
        if self.plan.mode == "target":
            self._set(min(1.0, 0.25 + 0.75 * progress / _RAMP))
            return
        self._recent.append(self.validation.clean(model))
        mean, wanted = sum(self._recent) / len(self._recent), self.reference.at(progress) - self.plan.drop
        self._best = max(self._best, mean)
        if self.plan.teacher is not None and mean < self._best - self._error(mean):
            self._limit = max(_LEAST, _SHRINK * self.objective.scale)
            self._set(self._limit)
        elif mean < wanted - _CAUTION * self._error(mean):
            self._set(max(_LEAST, _SHRINK * self.objective.scale))
        elif mean >= wanted and (self.plan.teacher is None or mean >= self.plan.teacher - self._near(mean)):
            self._set(min(self._limit, _GROW * self.objective.scale))

    def _set(self, scale: float) -> None:
        self.objective.scale = scale

    def state(self) -> dict[str, Any]:
        """All that a later `restore` needs."""
        return {"scale": self.objective.scale, "recent": list(self._recent), "best": self._best, "limit": self._limit}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self._set(float(state["scale"]))
        self._best, self._limit = float(state["best"]), float(state["limit"])
        self._recent.clear()
        self._recent.extend(float(accuracy) for accuracy in state["recent"])

    def record(self, history: list[dict[str, Any]], chosen: int) -> dict[str, Any]:
        """What a run's card says of the floor; `chosen` is the epoch that is kept, from 1."""
        clean = history[chosen - 1]["validation"]["clean"]
        return {
            "reference": self.reference.name,
            "reference_accuracy": self.reference.accuracy,
            "floor": self.least if self.plan.mode == "keep" else None,
            "held": self._holds(clean),
            "radius": self.budget,
            "last_radius": history[chosen - 1]["radius"],
        }

    def summary(self, history: list[dict[str, Any]], chosen: int) -> str:
        """Whether the floor holds and what it cost, for people."""
        kept = history[chosen - 1]
        clean, radius = kept["validation"]["clean"], kept["radius"]
        error = 100 * self._error(clean)
        text = (
            f"clean validation accuracy {100 * clean:.1f} % (standard error {error:.1f}), {self.reference.name} "
            f"{100 * self.reference.accuracy:.1f} %; radius {radius:.3g}"
        )
        if self.plan.mode == "target":
            return f"{text}; the price of it is {100 * (self.reference.accuracy - clean):.1f} points"
        if self._holds(clean):
            return f"{text} of {self.budget:.3g}; the floor {100 * self.least:.1f} % holds"
        epochs = sorted({(record["radius"], record["validation"]["clean"]) for record in history})
        pairs = ", ".join(f"{100 * accuracy:.1f} % at {size:.3g}" for size, accuracy in epochs[:: len(epochs) // 6 + 1])
        return f"{text} of {self.budget:.3g}; the floor {100 * self.least:.1f} % is NOT met; epochs: {pairs}"

    def _holds(self, clean: float) -> bool:
        return clean >= self.least - _CAUTION * self._error(clean)

    def _near(self, accuracy: float) -> float:
        """What counts as about as accurate: half a point, or a standard error where that is more."""
        return max(_NEAR, self._error(accuracy))

    def _error(self, accuracy: float) -> float:
        return math.sqrt(max(accuracy * (1 - accuracy), 0.0) / self.validation.certainty)
