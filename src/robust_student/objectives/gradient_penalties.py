"""The gradient objective at a point: exact slope, random-projection Jacobian, and the estimated radius itself.

Each form maps the student's logits, and the points they were computed from, to one value per example. All of them
differentiate a gradient, so the student must be twice differentiable; the secant objective has no such demand.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_map

from robust_student.bounds.estimated import estimated_decision_radius
from robust_student.core.errors import UserError
from robust_student.core.margins import Form, Score, confidence, input_gradient, margin, scores
from robust_student.core.module_state import evaluating
from robust_student.core.norms import Norm, NormName
from robust_student.core.rng import Source, normal
from robust_student.core.settings import Settings
from robust_student.core.tensors import Inputs, Labels, Logits, PerExample
from robust_student.objectives.term import GradientMode, Term, Visit


class GradientSettings(Settings):
    """L_gradient at a point: keep the slope of the student's confidence small (double backward)."""

    weight: float = Field(0.0, ge=0)
    """C2; 0 leaves the term out. Meaningful per norm and input size only (docs/objectives.md)."""
    kind: Literal["exact", "direct", "projection"] = "exact"
    """exact: squared dual norm of the gradient; direct: hinge on the estimated radius; projection: random-projection
    Jacobian (l2 only)."""
    form: Form = Form.TEACHER
    """exact: slope of the margin (bound A) or of the true class's score (bound B)."""
    score: Score = Score.PROBABILITY
    """exact, projection: slope of logits or of probabilities."""
    norm: NormName | None = None
    """Norm whose dual measures the slope; None: the objective's. l2 suits random noise: sigma^2 ||grad S||_2^2 is what
    noise of that variance does to S, to first order."""
    at: Literal["input", "ball"] = "input"
    """Where the slope is taken: at x, or at a point drawn uniformly in the ball of radius R around it."""
    target: float = Field(1.0, gt=0)
    """direct: the estimated radius to reach, in units of the norm."""
    projections: int = Field(1, ge=1)
    """projection: random directions per step."""


@dataclass(frozen=True)
class GradientPenalty(Term):
    """L_gradient at the point where the student is trained, or at a random point of the ball."""

    name: ClassVar[str] = "gradient"
    uses_targets: ClassVar[bool] = False
    settings: GradientSettings
    mode: GradientMode
    shareable: ClassVar[bool] = True

    @property
    def compilable(self) -> bool:
        """Never: the student is differentiated twice."""
        return False

    @property
    def over_ball(self) -> bool:
        """Only where it is taken at a random point."""
        return self.settings.at == "ball"

    @property
    def differentiates(self) -> bool:
        """Only where it is taken at the input, and in the mode of the training pass."""
        return self.settings.at == "input" and self.mode == "train"

    def check(self, student: nn.Module, inputs: Inputs) -> None:
        """Raise UserError where a module of the student is not twice differentiable."""
        require_twice_differentiable(student, inputs)

    def __call__(self, visit: Visit) -> PerExample:
        """The value of each example."""
        points = visit.points
        if visit.shared or self.differentiates:
            return self._of(visit, visit.logits, points)
        if self.settings.at == "ball":
            points = visit.random_points()
        points = points.clone().requires_grad_()
        return self._of(visit, visit.student.quiet(self.mode == "eval")(points), points)

    def _of(self, visit: Visit, logits: Logits, points: Inputs) -> PerExample:
        settings, labels = self.settings, visit.batch.labels
        norm = visit.threat.norm
        if settings.norm is not None:
            norm = norm.other(settings.norm)
        if settings.kind == "direct":
            return radius_hinge(logits, points, labels, norm, target=settings.target)
        if settings.kind == "projection":
            return projected_jacobian(
                logits, points, norm, score=settings.score, projections=settings.projections, source=visit.source
            )
        return exact_slope(logits, points, labels, norm, form=settings.form, score=settings.score)


def exact_slope(logits: Logits, points: Inputs, labels: Labels, norm: Norm, *, form: Form, score: Score) -> PerExample:
    """`||grad_x (S_y - S_j*)||_q^2` (bound A, j* detached) or `||grad_x S_y||_q^2` (bound B) by double backward.

    The denominator of the bound, Guo et al. 2018 (objective on gradients). Units: squared score per squared norm unit.
    """
    return norm.dual_size(input_gradient(confidence(logits, labels, form, score), points, create_graph=True)).square()


def projected_jacobian(
    logits: Logits,
    points: Inputs,
    norm: Norm,
    *,
    score: Score,
    projections: int,
    source: Source,
) -> PerExample:
    """Unbiased estimate of the squared Frobenius norm of the input Jacobian, `(C / n) sum_i ||v_i^T J||_2^2`.

    v_i are n random unit vectors in the C-dimensional score space. Hoffman, Roberts, Yaida 2019, eq. 8. Frobenius is
    a Euclidean notion: norms other than L2 raise UserError.
    """
    if norm.p != 2:
        raise UserError(
            f"gradient objective 'projection' measures a Frobenius norm, so it needs norm l2, not {norm.name}"
        )
    values = scores(logits, score)
    classes = values.shape[1]
    total = torch.zeros_like(values[:, 0])
    for _ in range(projections):
        vector = normal(tuple(values.shape), values, source)
        vector = vector / torch.linalg.vector_norm(vector, dim=1, keepdim=True)
        gradient = input_gradient((vector * values).sum(dim=1), points, create_graph=True)
        total = total + norm.dual_size(gradient).square()
    return classes / projections * total


def radius_hinge(logits: Logits, points: Inputs, labels: Labels, norm: Norm, *, target: float) -> PerExample:
    """`[target - m_+ / ||grad m||_q]_+ + [-m]_+`: raise the estimated radius (bound A, runner-up) up to the target.

    Where the decision is wrong the radius is 0 and the second part, a plain margin hinge, takes over: without it a
    larger gradient would be rewarded. On logits. Units: those of the norm, plus logits for wrong decisions.
    """
    radius = estimated_decision_radius(logits, points, labels, norm, rivals=1, create_graph=True)
    radius = torch.nan_to_num(radius, posinf=target)
    return (target - radius).clamp_min(0.0) + (-margin(logits, labels)).clamp_min(0.0)


def require_twice_differentiable(student: nn.Module, points: Inputs) -> None:
    """Raise UserError naming the first module of `student` through which a gradient cannot be differentiated.

    Each leaf module is fed the tensors it sees in a forward pass on two of the `points` and put through a double
    backward pass of its own; the student's buffers and mode are left as they were.
    """
    seen: list[tuple[str, nn.Module, tuple[Any, ...], dict[str, Any]]] = []

    def remember(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
            seen.append((name, module, _map(arguments, torch.clone), _map(keywords, torch.clone)))

        return hook

    leaves = [(name, module) for name, module in student.named_modules() if not list(module.children())]
    handles = [module.register_forward_pre_hook(remember(name), with_kwargs=True) for name, module in leaves]
    with evaluating(student):
        try:
            with torch.no_grad():
                student(points[:2].detach())
        finally:
            for handle in handles:
                handle.remove()
        for name, module, arguments, keywords in [*seen, ("", student, (points[:2].detach(),), {})]:
            problem = _double_backward_problem(module, arguments, keywords)
            if problem:
                kind = type(module).__name__
                place = f"module '{name}' ({kind})" if name else f"network {kind}"
                raise UserError(
                    f"gradient objective: {place} is not twice differentiable ({problem}); "
                    "use the secant objective instead (secant.weight > 0, gradient.weight = 0)"
                )


def _map(values: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Apply `change` to every floating tensor of nested arguments."""
    return tree_map(lambda v: change(v.detach()) if isinstance(v, Tensor) and v.is_floating_point() else v, values)


def _double_backward_problem(module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> str | None:
    """Why a double backward pass through `module` fails, or None where it works."""
    probes: list[Tensor] = []

    def probe(value: Tensor) -> Tensor:
        probes.append(value.clone().requires_grad_())
        return probes[-1] * 1.0

    # Copies of the parameters, because a plain backward() is needed: with `inputs` given, autograd prunes the very
    # node by which `once_differentiable` reports its error.
    state = {name: p.detach().clone().requires_grad_() for name, p in module.named_parameters()}
    state |= {name: buffer.clone() for name, buffer in module.named_buffers()}
    with torch.enable_grad():
        try:
            output = functional_call(module, state, _map(arguments, probe), _map(keywords, probe))
            if not isinstance(output, Tensor) or not output.requires_grad or not probes:
                return None
            weight = torch.ones_like(output, requires_grad=True)
            all_gradients = torch.autograd.grad(output, probes, weight, create_graph=True, allow_unused=True)
            gradients = [gradient for gradient in all_gradients if gradient is not None]
            if not all(gradient.requires_grad for gradient in gradients):
                return "its gradient is detached from the graph"
            if gradients:
                torch.autograd.backward(torch.stack([gradient.square().sum() for gradient in gradients]).sum())
        except RuntimeError as error:
            return str(error).splitlines()[0].rstrip(".")
    return None
