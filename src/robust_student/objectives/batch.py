"""A batch as an objective sees it, the terms that it answers with, and the one protocol of objectives."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from robust_student.core.errors import UserError
from robust_student.core.rng import Source
from robust_student.core.tensors import Inputs, Labels, Logits, PerExample
from robust_student.data.augmentation import Placement

Teacher = Callable[[Tensor], Tensor]
"""The teacher as a function: logits `(batch, classes)` of any inputs, differentiable with respect to them."""


@runtime_checkable
class HasFeatures(Protocol):
    """A network whose layers can be looked at, such as a `Model`."""

    def features(self, inputs: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        """Outputs of the named layers."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Examples that go through the student together, and their teacher."""

    inputs: Inputs
    """In the data's own units, as the student gets them: augmented and mixed."""
    labels: Labels
    """Class numbers; of a mixture that of the example with the larger share."""
    examples: Labels | None = None
    """Each example's number in the training set, where there is one."""
    teacher_logits: Logits | None = None
    """The teacher's logits of `inputs`, where they are known already."""
    teacher: Teacher | None = None
    """The frozen teacher in evaluation mode, to be asked at any points."""
    progress: float = 1.0
    """Share of the training done, 0 to 1."""
    others: Labels | None = None
    """Of mixtures (mixup, CutMix): class of the other example."""
    shares: PerExample | None = None
    """Of mixtures: share of `labels`, 0.5 to 1."""
    example_weights: PerExample | None = None
    """Weight of each example in the loss; None: 1."""
    placement: Placement | None = None
    """Where in its original each input was cut out; None: it is the original."""

    def detached(self) -> "Batch":
        """The same with inputs that carry no gradient."""
        return replace(self, inputs=self.inputs.detach())

    @cached_property
    def targets(self) -> Logits:
        """The teacher's logits of `inputs`: the known ones, else the teacher is asked, once. They carry no gradient."""
        if self.teacher_logits is not None:
            return self.teacher_logits.detach()
        with torch.no_grad():
            return self.ask(self.inputs)

    def ask(self, points: Inputs) -> Logits:
        """The teacher's logits of other points, differentiable with respect to them; UserError without a teacher."""
        if self.teacher is None:
            raise UserError(
                "objective: it asks the teacher, so the batch needs one; pass Batch(inputs, labels, teacher=teacher)"
            )
        return self.teacher(points)

    @torch.no_grad()
    def teacher_features(self, layers: Sequence[str]) -> dict[str, Tensor]:
        """Outputs of the teacher's named layers on `inputs`; UserError where the teacher shows none."""
        if not isinstance(self.teacher, HasFeatures):
            raise UserError(
                "objective: it matches features, so the batch needs a teacher with `features`, such as a Model"
            )
        return self.teacher.features(self.inputs, layers)


@dataclass(frozen=True)
class Terms:
    """One training step's terms: named, per example, not yet weighted."""

    values: dict[str, PerExample]
    """Term name -> value of each example."""
    weights: dict[str, float]
    """Term name -> its weight (1 for distillation, C1, C2)."""
    carried: Tensor | None = None
    """Zero in value; carries the gradient of the shared pass, which was taken already (see `shared_pass`)."""
    example_weights: PerExample | None = None
    """Weight of each example in the means; None: 1."""

    @property
    def loss(self) -> Tensor:
        """The weighted sum of the terms' means over the batch: the number to call `backward()` on."""
        values = self.values
        if self.example_weights is not None:
            values = {name: self.example_weights * value for name, value in values.items()}
        total = torch.stack([self.weights[name] * value.mean() for name, value in values.items()]).sum()
        return total if self.carried is None else total + self.carried


class Objective(Protocol):
    """What training minimises: a module around the student, the same for `train` and `distill`."""

    def __call__(self, batch: Batch, source: Source = None) -> Terms:
        """The terms of one batch; `source` makes its random draws repeatable."""
