"""What a finished training has to say for itself: that it did not work, or was not done, each line with its cure."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from robust_student.core.tensors import Labels
from robust_student.training.balanced import BalancedClasses
from robust_student.training.settings import TrainingSettings

_FEW_STEPS = 1000
_NEARLY_ALL = 0.99  # of the answers, from which on they are called one answer
_FELL = 0.99  # of its first value, below which a loss has fallen


@dataclass(frozen=True, eq=False)
class Outcome:
    """A finished training."""

    history: Sequence[Mapping[str, Any]]
    """One record per epoch."""
    kept: int
    """The epoch whose weights are kept, from 1."""
    classes: BalancedClasses
    """Of the validation examples."""
    sampled: float
    """How many validation examples the selection metric rests on, as `BalancedClasses.equivalent` counts them."""
    answers: Labels
    """What the kept weights answer to the validation examples."""
    names: Sequence[str]
    """Of the classes."""
    settings: TrainingSettings
    steps: int
    """Taken in each epoch."""
    radius: float | None
    """R of the terms against perturbations; None: there is no such term."""

    def alarms(self) -> list[str]:
        """Lines about epochs that were undone, about a useless model and about a training that could go on."""
        undone = dict.fromkeys(record["undone"] for record in self.history if "undone" in record)
        return [*undone, *self._of_the_end()]

    def _of_the_end(self) -> list[str]:
        """At most one line."""
        lines = [line for line in (self._useless(), self._stuck()) if line is not None]
        if lines:
            return [f"{line}; {self._cures()}" for line in lines[:1]]
        unfinished = self._still_improving()
        return [] if unfinished is None else [unfinished]

    def _useless(self) -> str | None:
        """An answer for everything, or a balanced accuracy that guessing has, too."""
        clean = self.history[self.kept - 1]["validation"]["clean"]
        if clean > self.classes.chance:
            return None
        count = len(self.answers)
        given = self.answers[self.answers >= 0]
        counts = given.bincount(minlength=1)
        most = int(counts.argmax())
        if len(given) and int(counts[most]) >= _NEARLY_ALL * count:
            share = "all" if int(counts[most]) == count else f"{100 * int(counts[most]) / count:.1f} % of"
            return f"one class for everything: the model answers '{self.names[most]}' to {share} validation examples"
        return (
            f"no better than guessing: balanced accuracy on validation is {100 * clean:.1f} %, by guessing "
            f"{100 * self.classes.guess:.1f} % (n = {count})"
        )

    def _stuck(self) -> str | None:
        """No loss that fell and no accuracy that rose after the first epoch."""
        if len(self.history) == 1:
            return None
        first, later = self.history[0], self.history[1:]
        if any(record["terms"][name] < _FELL * value for record in later for name, value in first["terms"].items()):
            return None
        for name, examples in (("clean", self.classes.equivalent), ("selection", self.sampled)):
            start = first["validation"][name]
            if any(record["validation"][name] > start + _error(start, examples) for record in later):
                return None
        return f"nothing was learnt after epoch 1: no loss fell and no accuracy rose in {len(self.history)} epochs"

    def _still_improving(self) -> str | None:
        """The last epoch is kept, by more than a standard error above all before the last quarter."""
        epochs = len(self.history)
        if self.kept < epochs or epochs == 1:
            return None
        before = max(record["validation"]["selection"] for record in self.history[: epochs - max(1, epochs // 4)])
        last = self.history[-1]["validation"]["selection"]
        if last - before <= _error(last, self.sampled):
            return None
        return f"still improving: the last epoch was the best; train longer: --epochs {2 * epochs}"

    def _cures(self) -> str:
        """What to change, the likeliest first."""
        settings, taken = self.settings, self.steps * len(self.history)
        cures = []
        if not self.classes.alike and settings.class_weights is None:
            cures.append("class weights (--class-weights balanced)")
        if taken < _FEW_STEPS:
            epochs = len(self.history) * max(2, math.ceil(_FEW_STEPS / taken))
            cures.append(f"more steps than {taken} (--epochs {epochs})")
        usual = TrainingSettings.model_fields["learning_rate"].default
        if settings.learning_rate < usual / 10:
            cures.append(f"a higher learning rate (--learning-rate {usual:g})")
        else:
            cures.append(f"a lower learning rate (--learning-rate {settings.learning_rate / 4:g})")
        if self.radius is not None:
            cures.append(f"a smaller radius (--radius {self.radius / 2:.3g})")
        return "try " + " or ".join([*filter(None, [", ".join(cures[:-1])]), cures[-1]])


def _error(share: float, examples: float) -> float:
    """The standard error of a share."""
    return math.sqrt(share * (1 - share) / examples)
