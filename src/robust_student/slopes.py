"""The gradient objective at a point: exact slope, random-projection Jacobian, and the estimated radius itself.

Each form maps the student's logits, and the points they were computed from, to one value per example. All of them
differentiate a gradient, so the student must be twice differentiable; the secant objective has no such demand.
"""

import torch
from torch import Tensor, nn

from robust_student.bounds import estimated_decision_radius
from robust_student.margins import Form, Score, confidence, input_gradient, margin, scores
from robust_student.norms import Norm
from robust_student.tensors import Inputs, Labels, Logits, PerExample, UserError


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
    generator: torch.Generator | None,
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
        vector = torch.randn(values.shape, generator=generator, device=values.device, dtype=values.dtype)
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
    seen: list[tuple[str, nn.Module, Tensor]] = []

    def remember(name: str) -> object:
        def hook(module: nn.Module, arguments: tuple[object, ...]) -> None:
            if arguments and isinstance(arguments[0], Tensor) and arguments[0].is_floating_point():
                seen.append((name, module, arguments[0].detach()))

        return hook

    leaves = [(name, module) for name, module in student.named_modules() if not list(module.children())]
    handles = [module.register_forward_pre_hook(remember(name)) for name, module in leaves]
    modes = [(module, module.training) for module in student.modules()]
    try:
        student.eval()
        with torch.no_grad():
            student(points[:2].detach())
        for handle in handles:
            handle.remove()
        for name, module, tensor in [*seen, ("", student, points[:2].detach())]:
            problem = _double_backward_problem(module, tensor)
            if problem:
                kind = type(module).__name__
                place = f"module '{name}' ({kind})" if name else f"network {kind}"
                raise UserError(
                    f"gradient objective: {place} is not twice differentiable ({problem}); "
                    "use the secant objective instead (secant.weight > 0, gradient.weight = 0)"
                )
    finally:
        for handle in handles:
            handle.remove()
        for module, training in modes:
            module.training = training


def _double_backward_problem(module: nn.Module, tensor: Tensor) -> str | None:
    """Why a double backward pass through `module` fails, or None where it works."""
    with torch.enable_grad():
        probe = tensor.clone().requires_grad_()
        try:
            output = module(probe * 1.0)
            if not isinstance(output, Tensor) or not output.requires_grad:
                return None
            weight = torch.ones_like(output, requires_grad=True)
            (gradient,) = torch.autograd.grad(output, probe, weight, create_graph=True, allow_unused=True)
            if gradient is None:
                return None
            if not gradient.requires_grad:
                return "its gradient is detached from the graph"
            torch.autograd.grad(gradient.square().sum(), weight, allow_unused=True)
        except RuntimeError as error:
            return str(error).splitlines()[0].rstrip(".")
    return None
