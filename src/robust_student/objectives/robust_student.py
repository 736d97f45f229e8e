"""The robust student objective: L = L_KD + C1 L_score + C2 L_gradient (Guo et al. 2018), as a module to train with."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.func import functional_call

from robust_student.attacks.ascent import Uphill, ascend, default_step
from robust_student.bounds.ball import Ball
from robust_student.bounds.propagation import margin_bounds
from robust_student.bounds.trace import Graph, trace
from robust_student.core.errors import UserError
from robust_student.core.margins import margin, margins, scores
from robust_student.core.module_state import evaluating
from robust_student.core.norms import Norm
from robust_student.core.rng import Source
from robust_student.core.tensors import UNIT_RANGE, InputRange, Inputs, Labels, Logits
from robust_student.core.threat_model import ThreatModel
from robust_student.objectives.gradient_penalties import (
    exact_slope,
    projected_jacobian,
    radius_hinge,
    require_twice_differentiable,
)
from robust_student.objectives.precision import ForwardPass, Precision
from robust_student.objectives.settings import METHODS, ObjectiveSettings
from robust_student.objectives.terms import (
    Terms,
    check_classes,
    distillation_term,
    divergence,
    score_term,
    secant_slope,
)


class RobustStudentObjective(nn.Module):
    """The training objective around a student: call it on a batch, then `.loss.backward()`.

    L = L_KD + C1 L_score + C2 L_gradient, each per example and named, weighted and averaged once. The gradient term
    acts at a point (`settings.gradient`), over the ball B(x, R) (`settings.secant`), or both. A term of weight zero is
    not computed at all, so that zero weights are plain distillation to the last bit.

    Shared pass (`secant.shared`): L_KD, L_score and the pointwise gradient term are taken at the random start instead
    of at x. Their parameter gradients g_p and the input gradient that starts the ascent come out of one backward pass
    inside `forward`; the returned loss carries the former as `sum <g_p, p>` (with value zero), so that a single outer
    `backward()` completes the step and a distributed wrapper sees one. The slope form needs both ends in one graph and
    so traverses the start's graph a second time.

    The student's own mode is respected: call `student.train()` before training as usual. Passes that only search
    (ascent without the shared pass, gradient terms at extra points) leave its buffers untouched.
    """

    def __init__(
        self,
        student: nn.Module,
        settings: ObjectiveSettings | None = None,
        *,
        norm: Norm | None = None,
        input_range: InputRange = UNIT_RANGE,
        precision: Precision = "fp32",
        compiled: bool = False,
    ) -> None:
        """Wrap `student`.

        Args:
            student: any differentiable module from `(batch, *shape)` to logits `(batch, classes)`.
            settings: weights and forms; default: the secant method.
            norm: overrides `settings.norm`, for a per-feature scale.
            input_range: where valid inputs lie; every point of an ascent stays inside it.
            precision: bf16 runs the passes that only train the student under autocast; every pass whose input gradient
                is taken (gradient terms, ascent, the shared pass) stays in the inputs' precision.
            compiled: hand the student's training passes to torch.compile. UserError where `compilable` says no.
        """
        super().__init__()
        self.student = student
        self.settings = settings if settings is not None else METHODS["secant"]
        self.norm = norm if norm is not None else Norm.named(self.settings.norm)
        slope_norm = self.settings.gradient.norm
        self.gradient_norm = self.norm if slope_norm is None else Norm.named(slope_norm, self.norm.scale)
        self.input_range = input_range
        if compiled and not compilable(self.settings):
            raise UserError("objective: cannot be compiled (it differentiates the student twice, or traces it)")
        self._passes = ForwardPass(student, precision, compiled=compiled)
        self.progress = 1.0
        """Share of the training done, 0 to 1, on which the radius of the certified term depends; set it each step."""
        self._graph: Graph | None = None
        self._twice_differentiable = self.settings.gradient.weight == 0

    def threat(self, shape: torch.Size | tuple[int, ...]) -> ThreatModel:
        """Norm, R and range for inputs of the given shape; R is the setting, or the norm's default."""
        return ThreatModel.of(self.norm, self.settings.radius, self.input_range, shape)

    def forward(self, inputs: Inputs, labels: Labels, teacher_logits: Logits, source: Source = None) -> Terms:
        """Terms of one batch; `teacher_logits` are the teacher's on the clean inputs. `source` makes it repeatable.

        Raises UserError where teacher and student disagree on the number of classes, and where the pointwise gradient
        term meets a module that is not twice differentiable.
        """
        inputs, teacher_logits = inputs.detach(), teacher_logits.detach()
        if not self._twice_differentiable:
            require_twice_differentiable(self.student, inputs)
            self._twice_differentiable = True
        step = self._shared_step if self.settings.shared_pass else self._step
        terms = step(inputs, labels, teacher_logits, source)
        if self.settings.certified.weight == 0:
            return terms
        values = terms.values | {"certified": self._certified(inputs, labels, teacher_logits)}
        return Terms(values, self._weights(values), terms.carried)

    def _step(self, inputs: Tensor, labels: Tensor, teacher_logits: Tensor, source: Source) -> Terms:
        settings = self.settings
        eval_mode = settings.gradient_mode == "eval"
        slope_here = settings.gradient.weight > 0 and settings.gradient.at == "input"
        differentiated = slope_here and not eval_mode
        points = inputs.clone().requires_grad_() if differentiated else inputs
        # A slope of the secant is a small difference: both of its ends are computed alike, in full precision.
        exact = differentiated or (settings.secant.weight > 0 and settings.secant.form == "slope")
        logits = self._passes.differentiable(points) if exact else self._passes(points)
        values = self._point_terms(logits, labels, teacher_logits)
        if settings.gradient.weight > 0:
            if not slope_here:
                points = self.threat(inputs.shape[1:]).random(inputs, source)
            slope_logits = logits
            if not slope_here or eval_mode:
                points = points.clone().requires_grad_()
                slope_logits = self._quiet(eval_mode)(points)
            values["gradient"] = self._gradient_term(slope_logits, points, labels, source)
        if settings.secant.weight > 0:
            start_logits = self._quiet(True)(inputs) if eval_mode and settings.secant.form == "slope" else logits
            values["secant"] = self._secant(inputs, inputs, start_logits, labels, teacher_logits, source)
        return Terms(values, self._weights(values))

    def _shared_step(self, inputs: Tensor, labels: Tensor, teacher_logits: Tensor, source: Source) -> Terms:
        settings = self.settings
        start = self.threat(inputs.shape[1:]).random(inputs, source)
        start.requires_grad_()
        logits = self._passes.differentiable(start)
        values = self._point_terms(logits, labels, teacher_logits)
        loss = Terms(values, self._weights(values)).loss
        parameters = [p for p in self.student.parameters() if p.requires_grad]
        drop, slope = settings.secant.ascent == "drop", settings.secant.form == "slope"
        carried = None
        if not drop and not slope and settings.gradient.weight == 0:
            # One backward pass serves both: the loss at the start is also what the ascent raises.
            direction, *gradients = torch.autograd.grad(loss, [start, *parameters], allow_unused=True)
            carried = _carry(parameters, gradients)
        else:
            climbed = -margin(scores(logits, settings.secant.score), labels).sum() if drop else loss
            (direction,) = torch.autograd.grad(climbed, start, retain_graph=True)
            if settings.gradient.weight > 0:
                values["gradient"] = self._gradient_term(logits, start, labels, source)
            if not slope:
                loss = Terms(values, self._weights(values)).loss
                carried = _carry(parameters, torch.autograd.grad(loss, parameters, allow_unused=True))
        if not slope:
            values = {name: value.detach() for name, value in values.items()}
        values["secant"] = self._secant(
            inputs, start, logits, labels, teacher_logits, source, first_gradient=direction.detach()
        )
        return Terms(values, self._weights(values), carried)

    def _point_terms(self, logits: Tensor, labels: Tensor, teacher_logits: Tensor) -> dict[str, Tensor]:
        check_classes(logits, teacher_logits)
        values = {"distillation": distillation_term(logits, teacher_logits, labels, self.settings.distillation)}
        if self.settings.score.weight > 0:
            values["score"] = score_term(logits, teacher_logits, labels, self.settings.score)
        return values

    def _gradient_term(self, logits: Tensor, points: Tensor, labels: Tensor, source: Source) -> Tensor:
        settings = self.settings.gradient
        if settings.kind == "direct":
            return radius_hinge(logits, points, labels, self.gradient_norm, target=settings.target)
        if settings.kind == "projection":
            return projected_jacobian(
                logits,
                points,
                self.gradient_norm,
                score=settings.score,
                projections=settings.projections,
                source=source,
            )
        return exact_slope(logits, points, labels, self.gradient_norm, form=settings.form, score=settings.score)

    def _secant(
        self,
        inputs: Tensor,
        start: Tensor,
        start_logits: Tensor,
        labels: Tensor,
        teacher_logits: Tensor,
        source: Source,
        first_gradient: Tensor | None = None,
    ) -> Tensor:
        """The secant term between `start`, whose logits are given, and the point z that the ascent reaches."""
        settings = self.settings.secant
        eval_mode = self.settings.gradient_mode == "eval"
        threat = self.threat(inputs.shape[1:])
        origin = start
        if first_gradient is None and settings.random_start:
            origin = threat.random(inputs, source)
        step = settings.step if settings.step is not None else default_step(settings.steps)
        reached = ascend(
            self._quiet(eval_mode),
            self._uphill(labels, teacher_logits),
            inputs,
            origin.detach(),
            threat,
            steps=settings.steps,
            step_size=step * threat.radius,
            first_gradient=first_gradient,
        )
        if settings.form == "divergence":
            return divergence(self._passes(reached), teacher_logits, self.settings.distillation.temperature)
        reached_logits = self._quiet(True)(reached) if eval_mode else self._passes.differentiable(reached)
        return secant_slope(
            margin(scores(start_logits, settings.score), labels),
            margin(scores(reached_logits, settings.score), labels),
            self.norm.size(reached - start.detach()),
        )

    def _certified(self, inputs: Tensor, labels: Tensor, teacher_logits: Tensor) -> Tensor:
        """The certified term; intervals carry the gradient to the student's parameters."""
        settings = self.settings.certified
        if self._graph is None:
            self._graph = trace(self.student, inputs.shape[1:])
        since = self.progress - settings.warmup
        grown = min(1.0, max(0.0, since / settings.ramp)) if settings.ramp > 0 else float(since >= 0)
        whole = self.threat(inputs.shape[1:])
        radius = grown * whole.budget
        ball = Ball(inputs, whole.at(radius))
        layers = self._graph.layers()
        bounds = margin_bounds(layers, ball, labels, "interval")
        if settings.form == "divergence":
            return distillation_term(-bounds, teacher_logits, labels, self.settings.distillation)
        if settings.form == "score":
            return score_term(-bounds, teacher_logits, labels, self.settings.score)
        drop = (margins(layers(inputs), labels) - bounds).amax(dim=1).clamp_min(0.0)
        return (drop / radius).square() if radius > 0 else torch.zeros_like(drop)

    def _uphill(self, labels: Tensor, teacher_logits: Tensor) -> Uphill:
        settings = self.settings.secant
        if settings.ascent == "drop":
            return lambda logits: -margin(scores(logits, settings.score), labels)
        return lambda logits: divergence(logits, teacher_logits, self.settings.distillation.temperature)

    def _quiet(self, eval_mode: bool) -> Callable[[Tensor], Tensor]:
        """The student as a function that leaves its buffers (BatchNorm statistics) and mode as they are."""
        student = self.student
        buffers = {name: buffer.clone() for name, buffer in student.named_buffers()}

        def run(points: Tensor) -> Tensor:
            with evaluating(student) if eval_mode else nullcontext():
                return functional_call(student, buffers, (points,))

        return run

    def _weights(self, values: dict[str, Tensor]) -> dict[str, float]:
        settings = self.settings
        weights = {
            "distillation": 1.0,
            "score": settings.score.weight,
            "gradient": settings.gradient.weight,
            "secant": settings.secant.weight,
            "certified": settings.certified.weight,
        }
        return {name: weights[name] for name in values}


def compilable(settings: ObjectiveSettings) -> bool:
    """Whether torch.compile can serve the objective.

    Compiled functions cannot be differentiated twice (gradient terms), the slope form traverses a pass twice, and
    certified terms trace the network.
    """
    slope = settings.secant.weight > 0 and settings.secant.form == "slope"
    return settings.gradient.weight == 0 and settings.certified.weight == 0 and not slope


def _carry(parameters: list[nn.Parameter], gradients: Sequence[Tensor | None]) -> Tensor | None:
    """A scalar of value zero whose gradient with respect to each parameter is the given one."""
    products = [(g.detach() * p).sum() for g, p in zip(gradients, parameters, strict=True) if g is not None]
    if not products:
        return None
    total = torch.stack(products).sum()
    return total - total.detach()
