"""Bounds are as tight as independent slow methods and closed forms say."""

import itertools
import math

import numpy as np
import pytest
import reference
import torch
import zoo
from reference import as_numpy, seeded
from reference_norm import Array, ReferenceNorm
from torch import Tensor, nn
from zoo import AFFINE, ALL, Body, network_of
from zoo_balls import ball_for, inputs_of, layers_of, matrix_of
from zoo_cases import DEEP, every_norm, least_over, margins_at

from robust_student.bounds.ball import Ball
from robust_student.bounds.propagation import METHODS_OF_BOUNDS, bound_steps, margin_bounds, margin_slopes
from robust_student.bounds.trace import trace
from robust_student.core.margins import margins
from robust_student.core.norms import Norm, NormName
from robust_student.core.tensors import UNBOUNDED, UNIT_RANGE, InputRange
from robust_student.core.threat_model import ThreatModel

# Tightness ------------------------------------------------------------------------------------------------------------


LOOSE = ("interval", "gradient", "lipschitz")


@every_norm
@torch.no_grad()
def test_linear_bounds_are_tighter_than_intervals_on_nearly_all_networks(
    norm_name: NormName, device: torch.device
) -> None:
    """Per network the sum over examples and classes of what a bound loses against the centre."""
    better = []
    for name in zoo.ZOO:
        layers, labels = layers_of(name, device), torch.tensor([0, 1, 2], device=device)
        if name in DEEP:
            continue
        ball = ball_for(name, norm_name, False, UNIT_RANGE, device, share=0.5)
        clean = margins_at(layers, ball, labels)
        linear, interval = (
            (clean - margin_bounds(layers, ball, labels, method)).sum().item() for method in ("linear", "interval")
        )
        assert min(linear, interval) >= -1e-9
        better.append(linear <= interval + 1e-9)
    assert sum(better) >= 0.9 * len(better)


PAIRS = ("relu", "tanh", "maxout", "silu")


def tiny(kind: str, device: torch.device) -> nn.Module:
    """Three classes of a two-dimensional input."""
    bend = {"relu": nn.ReLU(), "tanh": nn.Tanh(), "silu": nn.SiLU()}

    def build() -> nn.Module:
        if kind == "maxout":
            return Body(lambda x, a, b: b(a(x).view(-1, 4, 2).amax(2)), nn.Linear(2, 8), nn.Linear(4, 3))
        return nn.Sequential(nn.Linear(2, 6), bend[kind], nn.Linear(6, 6), bend[kind], nn.Linear(6, 3))

    network = seeded(build, device, seed=3)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1.5)
    return network


def disc_grid(norm: Norm, radius: float, count: int = 301) -> Tensor:
    """A dense grid of the unit ball of the plane, scaled, with its border."""
    side = torch.linspace(-1, 1, count, dtype=torch.float64)
    square = torch.cartesian_prod(side, side)
    size = torch.linalg.vector_norm(square, norm.p, dim=1)
    border = square / size.clamp_min(1e-9)[:, None]
    return radius * torch.cat([square[size <= 1], border[size > 0.9]])


@pytest.mark.parametrize("kind", PAIRS)
@every_norm
@torch.no_grad()
def test_bounds_of_a_plane_are_below_the_true_minimum_and_not_far(
    kind: str, norm_name: NormName, device: torch.device
) -> None:
    network, norm = tiny(kind, device), Norm.named(norm_name)
    layers = trace(network, (2,)).layers(torch.float64)
    inputs = torch.tensor([[0.2, -0.4], [0.9, 0.3], [-0.5, 0.6]], dtype=torch.float64, device=device)
    labels = torch.tensor([0, 1, 2], device=device)
    for radius, loss in ((0.02, 0.12), (0.15, 0.8)):
        ball = Ball(inputs, ThreatModel(norm, radius, UNBOUNDED))
        moves = disc_grid(norm, radius).to(device)
        values = torch.stack(
            [margins(network(x + moves), y.expand(len(moves))) for x, y in zip(inputs, labels, strict=True)]
        )
        true, clean = values.amin(dim=1), margins_at(layers, ball, labels)
        lost = {}
        for method in METHODS_OF_BOUNDS:
            bounds = margin_bounds(layers, ball, labels, method)
            assert (bounds <= true + 1e-12).all()
            lost[method] = ((true - bounds).sum() / (clean - true).sum()).item()
        # The share of the true fall that linear bounds exaggerate vanishes with the ball.
        assert lost["linear"] <= loss and lost["linear"] <= lost["interval"] + 1e-12
        assert max(lost["interval"], lost["gradient"]) <= lost["lipschitz"] + 1e-9 or kind != "relu"
        assert lost["gradient"] <= lost["lipschitz"] + 1e-9


@torch.no_grad()
def test_intervals_of_one_layer_are_the_extremes_over_the_corners(device: torch.device) -> None:
    """A unit's interval is exact; the margins' interval bound takes each unit at its own worst corner."""
    network = seeded(lambda: nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)), device)
    layers = trace(network, (4,)).layers(torch.float64)
    inputs = inputs_of("mlp", device, examples=2)[:, 1:5]
    radius = torch.tensor([0.3, 0.8], dtype=torch.float64, device=device)
    ball = Ball(inputs, ThreatModel(Norm.named("linf"), radius, UNIT_RANGE))
    labels = torch.tensor([0, 2], device=device)
    lower, upper = ball.box
    intervals, bounds = bound_steps(layers, ball, linear=False), margin_bounds(layers, ball, labels, "interval")
    last = as_numpy(network.get_parameter("2.weight"))
    for k in range(2):
        ends = zip(lower[k].tolist(), upper[k].tolist(), strict=True)
        corners = torch.tensor(list(itertools.product(*ends)), dtype=torch.float64, device=device)
        units = network.get_submodule("0")(corners)
        torch.testing.assert_close(intervals[1][0][k], units.amin(dim=0), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(intervals[1][1][k], units.amax(dim=0), rtol=1e-12, atol=1e-12)
        low, high = as_numpy(units.relu().amin(dim=0)), as_numpy(units.relu().amax(dim=0))
        bias, y = as_numpy(network.get_parameter("2.bias")), int(labels[k])
        for j in range(3):
            row = last[y] - last[j]
            expected = sum(min(w * a, w * b) for w, a, b in zip(row, low, high, strict=True)) + bias[y] - bias[j]
            assert bounds[k, j].item() == pytest.approx(expected, abs=1e-12)
        assert (margins(network(corners), labels[k].expand(16)) >= bounds[k] - 1e-12).all()


# Closed forms ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", AFFINE)
@every_norm
@pytest.mark.parametrize("scaled", [False, True], ids=["plain", "scaled"])
@torch.no_grad()
def test_bounds_of_an_affine_network_are_exact(
    name: str, norm_name: NormName, scaled: bool, device: torch.device
) -> None:
    layers, shape = layers_of(name, device), ALL[name].shape
    weight, bias = matrix_of(name, device)
    labels = [0, 1, 2]
    for limits in (UNBOUNDED, UNIT_RANGE):
        if limits.bounded and norm_name != "linf":
            continue
        ball = ball_for(name, norm_name, scaled, limits, device)
        for method in METHODS_OF_BOUNDS:
            if method in ("gradient", "lipschitz") and limits.bounded:
                continue  # a slope does not know where the range ends
            if method == "lipschitz" and (scaled or name != "linear"):
                continue  # a product of norms
            bounds = margin_bounds(layers, ball, torch.tensor(labels, device=device), method)
            for x, radius, y, bound in zip(
                reference.rows(ball.inputs), ball.radius.tolist(), labels, bounds, strict=True
            ):
                expected = [
                    least_over(weight[y] - weight[j], x, radius, ball.norm, limits, shape) + bias[y] - bias[j]
                    for j in range(3)
                ]
                np.testing.assert_allclose(as_numpy(bound), expected, rtol=1e-9, atol=1e-9, err_msg=method)


@pytest.mark.parametrize("scaled", [False, True], ids=["plain", "scaled"])
@every_norm
@torch.no_grad()
def test_lipschitz_bounds_of_an_affine_network_are_exact_too(
    norm_name: NormName, scaled: bool, device: torch.device
) -> None:
    """Without a bend the dual norm of the whole row is known: no product of norms is needed."""
    for name in AFFINE:
        layers = layers_of(name, device)
        ball, labels = ball_for(name, norm_name, scaled, UNBOUNDED, device), torch.tensor([0, 1, 2], device=device)
        torch.testing.assert_close(
            margin_slopes(layers, ball, labels, "lipschitz"), margin_slopes(layers, ball, labels), rtol=1e-9, atol=1e-9
        )


@torch.no_grad()
def test_slope_of_a_lipschitz_product_is_the_product(device: torch.device) -> None:
    """||w_y - w_j||_q times the operator norms of the layers before, times the largest unit of the scale."""
    network = network_of("mlp", device, torch.float64)
    layers = trace(network, (6,)).layers(torch.float64)
    labels = torch.tensor([0, 1, 2], device=device)
    first, second, last = (as_numpy(network.get_parameter(f"{k}.weight")) for k in (0, 2, 4))
    orders: dict[NormName, float] = {"l1": 1, "l2": 2, "linf": np.inf}
    for norm_name, order in orders.items():
        for scaled, unit in ((False, 1.0), (True, 2.0)):
            ball = ball_for("mlp", norm_name, scaled, UNBOUNDED, device)
            product = unit * np.linalg.norm(first, order) * np.linalg.norm(second, order)
            dual = {1: np.inf, 2: 2, np.inf: 1}[order]
            expected = [[np.linalg.norm(last[y] - last[j], dual) * product for j in range(3)] for y in range(3)]
            slopes = margin_slopes(layers, ball, labels, "lipschitz")
            np.testing.assert_allclose(as_numpy(slopes), expected, rtol=1e-8)


# Linear bounds against a slow copy of the method ----------------------------------------------------------------------


class DenseReluNetwork:
    """Linear bounds of a ReLU network (Zhang et al. 2018) with explicit matrices and loops over units."""

    def __init__(self, network: nn.Sequential, norm: Norm, limits: InputRange) -> None:
        linears = [module for module in network if isinstance(module, nn.Linear)]
        self.layers = [(as_numpy(module.weight), as_numpy(module.bias)) for module in linears]
        self.judge, self.limits = ReferenceNorm(norm, (linears[0].in_features,)), limits

    def least(self, row: Array, x: Array, radius: float) -> float:
        """The better of the box and of the ball without the elements that the range stops."""
        low, high = (np.clip(x + sign * radius * self.judge.scale, *self.limits) for sign in (-1, 1))
        box = sum(w * (a if w > 0 else b) for w, a, b in zip(row, low, high, strict=True))
        if self.judge.p == math.inf:
            return box
        free = [w if (x[i] > low[i] if w > 0 else x[i] < high[i]) else 0.0 for i, w in enumerate(row)]
        return max(box, float(row @ x) - radius * self.judge.dual_size(np.array(free)))

    def lower(self, row: Array, depth: int, ranges: list[tuple[Array, Array]], x: Array, radius: float) -> float:
        """A lower bound of <row, output of linear layer `depth`>, given the intervals of the earlier ones."""
        row, total = row.copy(), 0.0
        for k in range(depth, -1, -1):
            weight, bias = self.layers[k]
            total += float(row @ bias)
            row = row @ weight
            if k == 0:
                return total + self.least(row, x, radius)
            for unit, (low, high) in enumerate(zip(*ranges[k - 1], strict=True)):
                if high <= 0:
                    row[unit] = 0.0
                elif low < 0:
                    if row[unit] > 0:
                        row[unit] *= 1.0 if high > -low else 0.0
                    else:
                        total += row[unit] * -low * high / (high - low)
                        row[unit] *= high / (high - low)
        raise AssertionError

    def bounds(self, x: Array, radius: float, label: int) -> list[float]:
        """Bounds of every margin; intervals are intersections, and only undecided units are tightened."""
        ranges: list[tuple[Array, Array]] = []
        for depth, (weight, bias) in enumerate(self.layers[:-1]):
            units = np.eye(len(bias))
            if depth == 0:
                low = np.array([self.lower(e, 0, [], x, radius) for e in units])
                high = -np.array([self.lower(-e, 0, [], x, radius) for e in units])
            else:
                below, above = (np.maximum(end, 0.0) for end in ranges[-1])
                low = np.clip(weight, 0, None) @ below + np.clip(weight, None, 0) @ above + bias
                high = np.clip(weight, 0, None) @ above + np.clip(weight, None, 0) @ below + bias
                for k, e in enumerate(units):
                    if low[k] < 0 < high[k]:
                        tighter = self.lower(e, depth, ranges, x, radius), -self.lower(-e, depth, ranges, x, radius)
                        low[k], high[k] = max(low[k], tighter[0]), min(high[k], tighter[1])
            ranges.append((low, high))
        identity = np.eye(len(self.layers[-1][1]))
        depth = len(self.layers) - 1
        return [self.lower(identity[label] - e, depth, ranges, x, radius) for e in identity]


@every_norm
@pytest.mark.parametrize("scaled", [False, True], ids=["plain", "scaled"])
@pytest.mark.parametrize("limits", [UNIT_RANGE, UNBOUNDED], ids=["in range", "free"])
@torch.no_grad()
def test_linear_bounds_are_those_of_the_slow_method(
    norm_name: NormName, scaled: bool, limits: InputRange, device: torch.device
) -> None:
    def build() -> nn.Module:
        sizes = [6, 8, 7, 6]
        layers = [m for a, b in itertools.pairwise(sizes) for m in (nn.Linear(a, b), nn.ReLU())]
        return nn.Sequential(*layers, nn.Linear(6, 3))

    network = seeded(build, device, seed=4)
    for parameter in network.parameters():
        parameter.mul_(1.5)
    assert isinstance(network, nn.Sequential)
    layers = trace(network, (6,)).layers(torch.float64)
    labels = torch.tensor([0, 1, 2], device=device)
    for share in (0.1, 0.5, 1.0):
        if limits.bounded and norm_name == "l1":
            continue  # of the first layer, L1 intervals do not use the range
        ball = ball_for("mlp", norm_name, scaled, limits, device, share)
        slow = DenseReluNetwork(network, ball.norm, limits)
        rows = zip(reference.rows(ball.inputs), ball.radius.tolist(), labels.tolist(), strict=True)
        expected = [slow.bounds(x, radius, y) for x, radius, y in rows]
        np.testing.assert_allclose(
            as_numpy(margin_bounds(layers, ball, labels, "linear")), expected, rtol=1e-9, atol=1e-9
        )


# Gradients for training -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mlp", "batchnorm 2d", "max pooling", "residual", "silu", "shared weights"])
@every_norm
def test_interval_bounds_have_the_parameter_gradients_of_finite_differences(
    name: str, norm_name: NormName, device: torch.device
) -> None:
    network = network_of(name, device, torch.float64)
    graph, labels = trace(network, ALL[name].shape), torch.tensor([0, 1, 2], device=device)
    ball = ball_for(name, norm_name, False, UNIT_RANGE, device)
    weights = torch.linspace(-1, 1, 9, dtype=torch.float64, device=device).view(3, 3)

    def total() -> Tensor:
        return (weights * margin_bounds(graph.layers(), ball, labels, "interval")).sum()

    for parameter in list(network.parameters())[:2] + list(network.parameters())[-2:]:
        (gradient,) = torch.autograd.grad(total(), parameter)
        with torch.no_grad():
            position = int(gradient.abs().argmax())
            flat = parameter.view(-1)
            ends = []
            for change in (1e-6, -2e-6):
                flat[position] += change
                ends.append(total().item())
            flat[position] += 1e-6
        assert gradient.flatten()[position].item() == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-4, abs=1e-7)
