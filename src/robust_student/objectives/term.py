"""What a term of an objective is, and what it is shown of a training step."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from robust_student.attacks.ascent import Uphill, ascend, default_step
from robust_student.core.errors import UserError
from robust_student.core.layer_outputs import watching
from robust_student.core.rng import Source
from robust_student.core.tensors import Inputs, Labels, Logits, PerExample
from robust_student.core.threat_model import ThreatModel
from robust_student.objectives.batch import Batch
from robust_student.objectives.kept_perturbations import KeptPerturbations
from robust_student.objectives.precision import ForwardPass

Start = Literal["inputs", "random", "persistent"]
"""Where an ascent starts."""
GradientMode = Literal["train", "eval"]
"""Mode of the student (BatchNorm, dropout) where it is differentiated with respect to its inputs."""


@dataclass(frozen=True, eq=False)
class Visit:
    """One batch in front of the terms: the training pass that they share, and ways to ask the student elsewhere."""

    batch: Batch
    student: ForwardPass
    threat: ThreatModel
    """The balls around the inputs, cut to their range."""
    source: Source
    """Of random numbers."""
    points: Inputs
    """Where the training pass is made: at the inputs, where an ascent starts (`shared`), or at noisy inputs."""
    shared: bool = False
    """Whether the training pass also starts an ascent."""
    noisy: Bool[Tensor, " batch"] | None = None
    """Whose training pass is made at the noisy input; None: nobody's."""
    first: Inputs | None = None
    """Where the ascent starts, where it is known already."""
    kept: KeptPerturbations | None = None
    """What earlier visits reached."""
    full_precision: bool = False
    """Whether the training pass runs in the inputs' own precision because a term needs it."""
    layers: tuple[str, ...] = ()
    """Layers of the student that terms look at in the training pass."""
    modules: Mapping[str, nn.Module] = field(default_factory=dict)
    """Term name -> what the term trains beside the student."""

    @property
    def logits(self) -> Logits:
        """The student's logits of the training pass, which is made when a term first asks for it."""
        return self._pass[0]

    @property
    def features(self) -> dict[str, Tensor]:
        """Outputs of the layers that the terms named, in the training pass."""
        return self._pass[1]

    @cached_property
    def _pass(self) -> tuple[Logits, dict[str, Tensor]]:
        run = self.student.differentiable if self.full_precision else self.student
        if not self.layers:
            return run(self.points), {}
        with watching(self.student.network, self.layers) as seen:
            return run(self.points), seen

    def module(self, term: "Term") -> nn.Module:
        """What the term trains beside the student; UserError where the objective was made without an example."""
        if term.name not in self.modules:
            raise UserError(
                f"objective: the term '{term.name}' trains a module of its own, which is built for a batch; pass "
                "RobustStudentObjective(student, settings, example=batch)"
            )
        return self.modules[term.name]

    def random_points(self) -> Inputs:
        """A uniformly random point of each input's ball, cut to the input range."""
        return self.threat.random(self.batch.inputs, self.source)

    def start(self, kind: Start) -> Inputs:
        """Where an ascent starts: at the inputs, at random points of the balls, or at the kept points."""
        if self.first is not None:
            return self.first
        if kind == "random":
            return self.random_points()
        return self.batch.inputs if kind == "inputs" else self.kept_points()

    def kept_points(self) -> Inputs:
        """x + d with the perturbation d that the example's last visit reached; UserError without a memory."""
        kept, examples = self._memory
        change = kept.read(examples)
        if self.batch.placement is not None:
            change = self.batch.placement.carried(change)
        return self.threat.project(self.batch.inputs + change.to(self.batch.inputs), self.batch.inputs)

    @torch.no_grad()
    def keep(self, points: Inputs, *, but_noisy: bool = False) -> None:
        """Keep these points for the next visit, those of noisy examples only where not `but_noisy`."""
        kept, examples = self._memory
        change = points - self.batch.inputs
        if self.batch.placement is not None:
            change = self.batch.placement.back(change, kept.read(examples).to(change))
        kept.write(examples, change, ~self.noisy if but_noisy and self.noisy is not None else None)

    @property
    def _memory(self) -> tuple[KeptPerturbations, Labels]:
        if self.kept is None or self.batch.examples is None:
            raise UserError(
                "objective: a persistent start needs a memory; pass RobustStudentObjective(..., kept=...) and "
                "Batch(..., examples=...), or set secant.start = random"
            )
        return self.kept, self.batch.examples

    def climb(
        self,
        uphill: Uphill,
        start: Inputs,
        *,
        steps: int,
        step: float | None,
        mode: GradientMode,
        first_gradient: Inputs | None = None,
    ) -> Inputs:
        """The points that K ascent steps on `uphill` reach from `start` inside the balls; the student learns nothing.

        `step` is the size of a step in units of R, None the default for K; `mode` that of the student meanwhile;
        `first_gradient` is the gradient of `uphill` at `start` where it is known already.
        """
        return ascend(
            self.student.quiet(mode == "eval"),
            uphill,
            self.batch.inputs,
            start.detach(),
            self.threat,
            steps=steps,
            step_size=(default_step(steps) if step is None else step) * self.threat.radius,
            first_gradient=first_gradient,
        )


@dataclass(frozen=True)
class Term(ABC):
    """One part of an objective: a value for each example of a batch, and the weight of its mean in the loss."""

    name: ClassVar[str]
    """In records and checkpoints."""
    shareable: ClassVar[bool] = False
    """Whether it may be taken at the random start of a shared pass instead of at the inputs."""
    uses_targets: ClassVar[bool] = True
    """Whether it uses the teacher's logits of the inputs themselves, `batch.targets`."""
    weight: float
    """A term of weight 0 is not computed."""

    @property
    def layers(self) -> tuple[str, ...]:
        """Layers of the student that it looks at."""
        return ()

    @property
    def over_ball(self) -> bool:
        """Whether it looks at other points of the ball, so that the radius matters."""
        return False

    @property
    def differentiates(self) -> bool:
        """Whether it differentiates the training pass with respect to the inputs."""
        return False

    @property
    def full_precision(self) -> bool:
        """Whether the training pass must run in the inputs' own precision, not in bf16."""
        return self.differentiates

    @property
    def compilable(self) -> bool:
        """Whether the student may be compiled: not where it is differentiated twice, traced or looked into."""
        return not self.layers

    def check(self, student: nn.Module, inputs: Inputs) -> None:
        """Raise UserError where the student cannot serve the term; called once, with the first batch."""
        return

    def module(self, student: nn.Module, example: Batch) -> nn.Module | None:
        """What it trains beside the student, built for a batch of examples; None: nothing.

        `visit.module(self)` is it. It shares the student's optimiser, but is no part of the model that is kept.
        """
        return None

    @abstractmethod
    def __call__(self, visit: Visit) -> PerExample:
        """The value of each example."""
