"""Networks of the zoo traced, balls around inputs of theirs, and points inside them."""

from functools import cache

import torch
from reference import as_numpy, norm_for
from reference_norm import Array
from torch import Tensor
from zoo import ALL, double, network_of, size_of

from robust_student.bounds.ball import Ball
from robust_student.bounds.layers import Layers
from robust_student.bounds.trace import Graph, trace
from robust_student.core.norms import Norm, NormName
from robust_student.core.tensors import InputRange
from robust_student.core.threat_model import ThreatModel


@cache
def traced(name: str, device: torch.device) -> Graph:
    """The trace of a float32 network, made once; nobody may change its weights."""
    return trace(network_of(name, device), ALL[name].shape)


@cache
def layers_of(name: str, device: torch.device) -> Layers:
    """Its operations in float64, without gradients of the weights."""
    with torch.no_grad():
        return traced(name, device).layers(torch.float64)


def inputs_of(name: str, device: torch.device, examples: int = 3, seed: int = 3) -> Tensor:
    """Float64 inputs in [0, 1]; the first element of each is 0, the last 1."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.rand((examples, *ALL[name].shape), generator=generator, dtype=torch.float64)
    inputs.view(examples, -1)[:, 0] = 0.0
    inputs.view(examples, -1)[:, -1] = 1.0
    return inputs.to(device)


def matrix_of(name: str, device: torch.device) -> tuple[Array, Array]:
    """W and b of an affine network, from its logits at the unit vectors."""
    network, shape = double(network_of(name, device)), ALL[name].shape
    size = size_of(shape)
    with torch.no_grad():
        bias = network(torch.zeros((1, *shape), dtype=torch.float64, device=device))
        units = torch.eye(size, dtype=torch.float64, device=device).view(size, *shape)
        return as_numpy((network(units) - bias).T), as_numpy(bias[0])


RADII: dict[NormName, float] = {"l1": 1.5, "l2": 0.5, "linf": 0.12}


def ball_for(
    name: str, norm_name: NormName, scaled: bool, limits: InputRange, device: torch.device, share: float = 1.0
) -> Ball:
    """A ball around three inputs, of a different radius for each."""
    inputs = inputs_of(name, device)
    radius = share * RADII[norm_name] * torch.tensor([0.2, 0.7, 1.0], dtype=torch.float64, device=device)
    return Ball(inputs, ThreatModel(norm_for(norm_name, ALL[name].shape, scaled, device), radius, limits))


def points_of(ball: Ball, layers: Layers | None = None, *, count: int = 60, seed: int = 0) -> Tensor:
    """`(examples, points, *shape)` in the ball and the range: inside, on the surface, corners, ends of ascents."""
    parts = []
    for k, radius in enumerate(ball.radius.tolist()):
        x = ball.inputs[k : k + 1]
        moved = [x, x + _moves(ball.norm, x.expand(count, *x.shape[1:]), radius, seed)]
        if layers is not None:
            moved.append(_descents(layers, x, radius, ball))
        points = ball.threat.clip(torch.cat(moved))
        assert ball.norm.size(points - x).max().item() <= radius * (1 + 1e-9) + 1e-12
        parts.append(points)
    return torch.stack(parts)


def _moves(norm: Norm, like: Tensor, radius: float, seed: int) -> Tensor:
    generator = torch.Generator(like.device).manual_seed(seed)
    inside = norm.random(like, radius, generator)
    size = norm.size(inside).view(-1, *[1] * (like.dim() - 1))
    signs = torch.randint(2, like.shape, generator=generator, device=like.device).to(like) * 2 - 1
    sparse = signs * (torch.rand(like.shape, generator=generator, device=like.device) < 0.2)
    corners = norm.direction(torch.cat([signs, sparse]) * torch.rand(like.shape[1:], generator=generator).to(like))
    return torch.cat([inside, inside * radius / size, radius * corners])


def _descents(layers: Layers, x: Tensor, radius: float, ball: Ball, steps: int = 5) -> Tensor:
    """Where projected descent of each margin leads, from the input and from a random point, with shrinking steps."""
    classes = layers.steps[-1].shape[0]
    pairs = [(y, j) for y in range(classes) for j in range(classes) if y != j]
    start = torch.cat(
        [x.expand(len(pairs), *x.shape[1:]), x + _moves(ball.norm, x, radius, 5)[:1].expand(len(pairs), *x.shape[1:])]
    )
    rows = torch.tensor(pairs * 2, device=x.device)
    points, seen = ball.threat.clip(start), []
    for step in range(steps):
        points = points.detach().requires_grad_()
        logits = layers(points)
        gap = (logits.gather(1, rows[:, :1]) - logits.gather(1, rows[:, 1:])).sum()
        (gradient,) = torch.autograd.grad(gap, points)
        moved = ball.threat.step(points.detach(), -gradient, radius * 0.7**step)
        points = ball.threat.at(radius).project(moved, x.expand_as(moved))
        seen.append(points)
    return torch.cat(seen[steps // 2 :])
