"""The objective around a student: the sum of the terms that its settings ask for, as a module to train with."""

from dataclasses import replace

import torch
from torch import nn

from robust_student.core.errors import UserError
from robust_student.core.module_state import evaluating
from robust_student.core.rng import Source
from robust_student.core.tensors import UNIT_RANGE, Shape, column
from robust_student.core.threat_model import ThreatModel
from robust_student.objectives.batch import Batch, Terms
from robust_student.objectives.kept_perturbations import KeptPerturbations
from robust_student.objectives.methods import METHODS
from robust_student.objectives.precision import ForwardPass, Precision
from robust_student.objectives.secant import SecantSettings
from robust_student.objectives.settings import ObjectiveSettings
from robust_student.objectives.shared_pass import shared_terms, weighted
from robust_student.objectives.term import Visit


class RobustStudentObjective(nn.Module):
    """The training objective around a student: call it on a batch, then `.loss.backward()`.

    L = L_KD + C1 L_score + C2 L_gradient and the terms of the method's own (`settings.terms()`), each per example and
    named, weighted and averaged once. A term of weight zero is not computed at all, so that zero weights are plain
    distillation to the last bit.

    Shared pass (`secant.shared`): the terms are taken at the start of the ascent instead of at x, and the same
    backward pass gives the first direction (see `shared_pass`). Noise (`noise.share`): for some examples, chosen anew
    in every step, they are taken at the noisy input instead.

    The student's own mode is respected: call `student.train()` before training as usual. Passes that only search
    (ascent without the shared pass, gradient terms at extra points) leave its buffers untouched.
    """

    def __init__(
        self,
        student: nn.Module,
        settings: ObjectiveSettings | None = None,
        *,
        threat: ThreatModel | None = None,
        precision: Precision = "fp32",
        compiled: bool = False,
        example: Batch | None = None,
        kept: KeptPerturbations | None = None,
    ) -> None:
        """Wrap `student`.

        Args:
            student: any differentiable module from `(batch, *shape)` to logits `(batch, classes)`.
            settings: weights and forms; default: the secant method.
            threat: the balls around the inputs and the inputs' range; every point of an ascent stays inside. Default:
                norm and radius of the settings on inputs in [0, 1].
            precision: bf16 runs the passes that only train the student under autocast; every pass whose input gradient
                is taken (gradient terms, ascent, the shared pass) stays in the inputs' precision.
            compiled: hand the student's training passes to torch.compile. UserError where `compilable` says no.
            example: a batch with its teacher, of any content. Terms that train a module of their own, such as a
                regressor between layers, build it for the sizes that they find there. The modules are in `own`, so
                give the optimiser `objective.parameters()`.
            kept: what a persistent start (`secant.start`) needs: the perturbations of all training examples.
        """
        super().__init__()
        self.student = student
        self.settings = settings if settings is not None else METHODS["secant"]
        self._threat = threat
        if compiled and not compilable(self.settings):
            raise UserError("objective: cannot be compiled (it differentiates the student twice, or traces it)")
        self._passes = ForwardPass(student, precision, compiled=compiled)
        self._take_terms()
        self.kept = kept
        self.scale = 1.0
        """Share of R, and at most of the share of noisy examples, in which the student is trained now; a floor on clean
        accuracy moves it."""
        self._checked = False
        self.own = nn.ModuleDict({} if example is None else self._built(example))

    def use_secant(self, settings: SecantSettings) -> None:
        """Go on with another ascent."""
        self.settings = self.settings.model_copy(update={"secant": settings})
        self._take_terms()

    def _take_terms(self) -> None:
        self.terms = tuple(term for term in self.settings.terms() if term.weight > 0)
        self._shared = self.settings.shared_pass and all(term.shareable for term in self.terms)

    @property
    def uses_targets(self) -> bool:
        """Whether any term uses the teacher's logits of the inputs themselves, so that they are worth preparing."""
        return any(term.uses_targets for term in self.terms)

    def threat(self, shape: Shape) -> ThreatModel:
        """What an adversary may do to inputs of the given shape."""
        threat = self._threat
        if threat is None:
            threat = ThreatModel.named(self.settings.norm, self.settings.radius, UNIT_RANGE, shape)
        return threat if self.scale == 1 else threat.at(self.scale * threat.radius)

    def forward(self, batch: Batch, source: Source = None) -> Terms:
        """Terms of one batch; `source` makes it repeatable.

        Raises UserError where the batch has no teacher, where teacher and student disagree on the number of classes,
        and where the student cannot serve a term (a pointwise gradient term needs twice differentiable modules).
        """
        if not self._checked:
            for term in self.terms:
                term.check(self.student, batch.inputs.detach())
            self._checked = True
        visit = self._visit(batch.detached(), source)
        if self._shared:
            return shared_terms(visit, self.terms)
        return weighted(visit, {term.name: term(visit) for term in self.terms}, self.terms)

    def _built(self, example: Batch) -> dict[str, nn.Module]:
        """What terms train beside the student, by term name."""
        with evaluating(self.student):
            built = {term.name: term.module(self.student, example) for term in self.terms}
        return {name: module for name, module in built.items() if module is not None}

    def _visit(self, batch: Batch, source: Source) -> Visit:
        """The batch with the points of its training pass: x, the start of a shared pass, or noisy inputs."""
        visit = Visit(
            batch,
            self._passes,
            self.threat(batch.inputs.shape[1:]),
            source,
            points=batch.inputs,
            full_precision=any(term.full_precision for term in self.terms),
            layers=tuple(layer for term in self.terms for layer in term.layers),
            modules=dict(self.own.items()),
            kept=self.kept,
        )
        if self._shared:
            start = visit.start(self.settings.secant.start)
            visit = replace(visit, points=start, first=start, shared=True, full_precision=True)
        if self.settings.noise.share > 0:
            noise = self.settings.noise.draw(batch.inputs, visit.threat, source, min(self.scale, 1.0))
            points = torch.where(column(noise.chosen, visit.points), noise.inputs, visit.points)
            visit = replace(visit, points=points, noisy=noise.chosen)
        if self._shared or any(term.differentiates for term in self.terms):
            visit = replace(visit, points=visit.points.detach().requires_grad_())
        return visit


def compilable(settings: ObjectiveSettings) -> bool:
    """Whether torch.compile can serve the objective: every term must allow it."""
    return all(term.compilable for term in settings.terms() if term.weight > 0)
