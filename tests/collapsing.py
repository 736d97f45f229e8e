"""A training that seems to overfit catastrophically, for tests of what follows."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

from robust_student.models.model import Model
from robust_student.training import overfitting
from robust_student.training.balanced import BalancedClasses
from robust_student.training.overfitting import OneAgainstMany, OverfittingGuard


@contextmanager
def collapsing() -> Iterator[None]:
    """Robustness seems lost at the second look, until the ascent has two steps; a look follows every epoch."""
    original = OverfittingGuard.measure

    def measure(self: OverfittingGuard, model: Model) -> OneAgainstMany:
        radius = original(self, model).radius
        lost = self.best is not None and self.objective.settings.secant.steps < 2
        return OneAgainstMany(0.9, 0.02, radius) if lost else OneAgainstMany(0.8, 0.75, radius)

    with (
        patch.object(OverfittingGuard, "measure", measure),
        patch.object(overfitting, "_COST", 1000.0),
        patch.object(BalancedClasses, "chance", -1.0),  # a tiny network in its first epoch may be no better
    ):
        yield
