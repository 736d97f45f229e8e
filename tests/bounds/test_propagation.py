"""No point of a ball violates a bound, and bounds are as tight as independent slow methods say."""

import itertools
import math

import numpy as np
import pytest
import reference
import torch
import zoo
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import NORMS, Array, ReferenceNorm, Shape, as_numpy, norm_for, seeded, vectors
from scipy import optimize
from torch import Tensor, nn
from zoo import AFFINE, ALL, Body, ball_for, inputs_of, layers_of, matrix_of, network_of, points_of

from robust_student.bounds.ball import Ball
from robust_student.bounds.layers import Layers
from robust_student.bounds.propagation import (
    CHEAP,
    METHODS_OF_BOUNDS,
    Method,
    bound_steps,
    margin_bounds,
    margin_slopes,
)
from robust_student.bounds.trace import trace
from robust_student.core.margins import margins
from robust_student.core.norms import Norm, NormName
from robust_student.core.tensors import UNBOUNDED, UNIT_RANGE, InputRange
from robust_student.core.threat_model import ThreatModel

every_norm = pytest.mark.parametrize("norm_name", NORMS)
every_method = pytest.mark.parametrize("method", METHODS_OF_BOUNDS)
SETTINGS: list[tuple[NormName, bool, InputRange]] = list(
    itertools.product(NORMS, (False, True), (UNIT_RANGE, UNBOUNDED))
)
CORE = ("conv with stride", "max pooling, overlapping", "silu", "concatenation")
DEEP = ("built-in resnet8", "built-in resnet20", "built-in cnn, large")


def settings_of(name: str) -> list[tuple[NormName, bool, InputRange]]:
    """All twelve for some networks; two, taking turns, for the others; one for the deepest."""
    start = list(ALL).index(name)
    if name in CORE:
        return SETTINGS
    if name in DEEP:
        return [SETTINGS[5 * start % 12]]
    return [SETTINGS[4 * ((start + k) % 3) + (start // 3 + k) % 4] for k in range(2)]


CASES = [(name, *setting) for name in ALL for setting in settings_of(name)]


def label_of(value: object) -> str:
    if isinstance(value, InputRange):
        return "in range" if value.bounded else "free"
    return {True: "scaled", False: "plain"}[value] if isinstance(value, bool) else str(value)


every_case = pytest.mark.parametrize(("name", "norm_name", "scaled", "limits"), CASES, ids=label_of)


def slack_of(values: Tensor) -> float:
    return 1e-9 * (1 + float(values.abs().max()))


# Soundness over the zoo ---------------------------------------------------------------------------------------------


@every_case
def test_no_point_of_the_ball_is_below_any_bound(
    name: str, norm_name: NormName, scaled: bool, limits: InputRange, device: torch.device
) -> None:
    layers = layers_of(name, device)
    ball, labels = ball_for(name, norm_name, scaled, limits, device), torch.tensor([0, 1, 2], device=device)
    points = points_of(ball, layers)
    with torch.no_grad():
        logits = torch.stack([layers(group) for group in points])
        pairs = zip(logits, labels, strict=True)
        found = torch.stack([margins(row, label.expand(len(row))) for row, label in pairs]).amin(dim=1)
        for method in METHODS_OF_BOUNDS:
            bounds = margin_bounds(layers, ball, labels, method)
            assert bounds.shape == (3, zoo.CLASSES)
            assert bounds[torch.arange(3), labels].abs().max() <= 1e-12
            assert (found - bounds).min().item() >= -slack_of(logits), method


def values_of(layers: Layers, inputs: Tensor) -> list[Tensor]:
    """The input and what every step gives."""
    values = [inputs]
    for step in layers.steps:
        values.append(step.operation.apply(*(values[k] for k in step.parents)))
    return values


@every_case
@torch.no_grad()
def test_every_step_stays_in_its_interval(
    name: str, norm_name: NormName, scaled: bool, limits: InputRange, device: torch.device
) -> None:
    layers = layers_of(name, device)
    ball = ball_for(name, norm_name, scaled, limits, device)
    seen = [values_of(layers, group) for group in points_of(ball, count=30, seed=1)]
    found = [bound_steps(layers, ball, linear=linear) for linear in (False, True)]
    for intervals in found:
        assert len(intervals) == len(layers.steps) + 1
        for number, (lower, upper) in enumerate(intervals):
            for example, values in enumerate(seen):
                value, tolerance = values[number], slack_of(values[number])
                assert (value >= lower[example] - tolerance).all() and (value <= upper[example] + tolerance).all()
    for (lower, upper), (low, high) in zip(*found, strict=True):
        assert (low >= lower - 1e-12).all() and (high <= upper + 1e-12).all()  # linear bounds only tighten


@every_case
def test_no_gradient_in_the_ball_is_larger_than_the_slopes(
    name: str, norm_name: NormName, scaled: bool, limits: InputRange, device: torch.device
) -> None:
    layers = layers_of(name, device)
    ball = ball_for(name, norm_name, scaled, limits, device)
    labels = torch.tensor([1, 2, 0], device=device)
    groups = points_of(ball, count=25, seed=2)
    steepest = []
    for group, label in zip(groups, labels, strict=True):
        points = group.detach().requires_grad_()
        found = margins(layers(points), label.expand(len(points)))
        slopes = [
            ball.norm.dual_size(torch.autograd.grad(found[:, j].sum(), points, retain_graph=True)[0]).max()
            for j in range(zoo.CLASSES)
        ]
        steepest.append(torch.stack(slopes))
    with torch.no_grad():
        for method in ("gradient", "lipschitz"):
            bounds = margin_slopes(layers, ball, labels, method)
            assert (bounds >= torch.stack(steepest) * (1 - 1e-9) - 1e-12).all(), method


def margins_at(layers: Layers, ball: Ball, labels: Tensor) -> Tensor:
    return margins(layers(ball.inputs), labels)


TURNS = [(name, NORMS[k % 3]) for k, name in enumerate(ALL)]
one_norm_each = pytest.mark.parametrize(("name", "norm_name"), TURNS)


@one_norm_each
@torch.no_grad()
def test_a_ball_of_radius_zero_is_its_centre(name: str, norm_name: NormName, device: torch.device) -> None:
    layers, labels = layers_of(name, device), torch.tensor([0, 1, 2], device=device)
    ball = ball_for(name, norm_name, True, UNIT_RANGE, device, share=0.0)
    for method in METHODS_OF_BOUNDS:
        found = margin_bounds(layers, ball, labels, method)
        torch.testing.assert_close(found, margins_at(layers, ball, labels), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", CORE)
@every_norm
@every_method
@torch.no_grad()
def test_bounds_of_an_example_do_not_depend_on_the_others(
    name: str, norm_name: NormName, method: Method, device: torch.device
) -> None:
    layers, labels = layers_of(name, device), torch.tensor([0, 1, 2], device=device)
    ball = ball_for(name, norm_name, True, UNIT_RANGE, device)
    together = margin_bounds(layers, ball, labels, method)
    for k in range(3):
        alone = Ball(ball.inputs[k : k + 1], ball.threat.among(torch.tensor([k], device=device)))
        torch.testing.assert_close(
            margin_bounds(layers, alone, labels[k : k + 1], method), together[k : k + 1], rtol=1e-9, atol=1e-9
        )


@one_norm_each
@torch.no_grad()
def test_bounds_fall_as_the_ball_grows_and_shrink_with_the_range(
    name: str, norm_name: NormName, device: torch.device
) -> None:
    layers, labels = layers_of(name, device), torch.tensor([0, 1, 2], device=device)
    for method in CHEAP:  # linear bounds may jump where a relaxation changes
        free = [ball_for(name, norm_name, True, UNBOUNDED, device, share) for share in (0.1, 1.0)]
        found = [margin_bounds(layers, ball, labels, method) for ball in free]
        assert (found[0] >= found[1] - 1e-9).all()
        cut = margin_bounds(layers, ball_for(name, norm_name, True, UNIT_RANGE, device), labels, method)
        assert (cut >= found[1] - 1e-9).all()


# Tightness ----------------------------------------------------------------------------------------------------------

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


# Closed forms -------------------------------------------------------------------------------------------------------


def least_over(row: Array, x: Array, radius: float, norm: Norm, limits: InputRange, shape: Shape) -> float:
    """min <row, z> over the ball and the range: closed form without a range, else a clipped box or a search."""
    judge = ReferenceNorm(norm, shape)
    if not limits.bounded:
        return float(row @ x) - radius * judge.dual_size(row)
    if norm.p == math.inf:
        low, high = (np.clip(x + sign * radius * judge.scale, *limits) for sign in (-1, 1))
        return sum(w * (a if w > 0 else b) for w, a, b in zip(row, low, high, strict=True))
    if norm.p == 1:
        return float(row @ x) - judge.best_gain(x, -row, radius, limits)

    def moved(multiplier: float) -> Array:
        return np.clip(x - row * judge.scale**2 / multiplier, *limits) - x

    def excess(multiplier: float) -> float:
        return math.hypot(*(moved(multiplier) / judge.scale)) - radius

    least, most = 1e-12, judge.dual_size(row) / radius * (1 + 1e-9)
    if excess(least) <= 0:
        return float(row @ (x + moved(least)))
    return float(row @ (x + moved(optimize.brentq(excess, least, most, xtol=1e-15, rtol=1e-14))))


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
            for x, radius, y, found in zip(
                reference.rows(ball.inputs), ball.radius.tolist(), labels, bounds, strict=True
            ):
                expected = [
                    least_over(weight[y] - weight[j], x, radius, ball.norm, limits, shape) + bias[y] - bias[j]
                    for j in range(3)
                ]
                np.testing.assert_allclose(as_numpy(found), expected, rtol=1e-9, atol=1e-9, err_msg=method)


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
            found = margin_slopes(layers, ball, labels, "lipschitz")
            np.testing.assert_allclose(as_numpy(found), expected, rtol=1e-8)


# Linear bounds against a slow copy of the method ---------------------------------------------------------------------


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


# The ball -----------------------------------------------------------------------------------------------------------


@every_norm
@pytest.mark.parametrize("scaled", [False, True], ids=["plain", "scaled"])
@pytest.mark.parametrize("limits", [UNIT_RANGE, UNBOUNDED], ids=["in range", "free"])
@settings(max_examples=12)
@given(data=st.data())
def test_least_value_of_a_linear_function_against_an_exact_method(
    norm_name: NormName, scaled: bool, limits: InputRange, device: torch.device, data: st.DataObject
) -> None:
    shape: Shape = (2, 3)
    row = torch.tensor(data.draw(vectors(6)), dtype=torch.float64, device=device).view(1, *shape)
    unit = st.sampled_from([0.0, 1.0, 0.5]) | st.floats(0, 1, allow_subnormal=False)
    points = torch.tensor(data.draw(st.lists(unit, min_size=12, max_size=12)), dtype=torch.float64, device=device)
    radius = torch.tensor(data.draw(st.lists(st.floats(1e-3, 3), min_size=2, max_size=2)), dtype=torch.float64)
    ball = Ball(
        points.view(2, *shape), ThreatModel(norm_for(norm_name, shape, scaled, device), radius.to(device), limits)
    )
    owner = torch.tensor([0, 1], device=device)
    rows = torch.cat([row, -2 * row])
    least, crossed = ball.least(rows, owner), ball.least_of_all(rows)
    for k, x in enumerate(reference.rows(ball.inputs)):
        for j, line in enumerate(reference.rows(rows)):
            true = least_over(line, x, radius[k].item(), ball.norm, limits, shape)
            exact = not limits.bounded or norm_name == "linf"
            tolerance = 1e-7 if norm_name == "l1" else 1e-9  # of the linear programme
            for found in [crossed[k, j].item()] + [least[k].item()] * (j == k):
                assert found <= true + tolerance
                assert not exact or found >= true - tolerance


@every_norm
def test_the_range_counts_where_an_input_sits_at_its_end(norm_name: NormName, device: torch.device) -> None:
    """At x = 0 in [0, 1] a positive coefficient cannot fall, so only the other elements cost anything."""
    inputs = torch.tensor([[0.0, 0.5, 1.0]], dtype=torch.float64, device=device)
    rows = torch.tensor([[1.0, 2.0, -3.0]], dtype=torch.float64, device=device)
    ball = Ball(inputs, ThreatModel(Norm.named(norm_name), 0.25, UNIT_RANGE))
    owner = torch.zeros(1, dtype=torch.int64, device=device)
    assert ball.least(rows, owner).item() == pytest.approx(-2.0 - 0.25 * 2.0)


@every_norm
def test_the_box_is_the_smallest_around_the_ball(norm_name: NormName, device: torch.device) -> None:
    ball = ball_for("mlp", norm_name, True, UNIT_RANGE, device)
    lower, upper = ball.box
    scale = ball.norm.scale
    assert scale is not None
    for k, radius in enumerate(ball.radius.tolist()):
        for i, unit in enumerate(scale.tolist()):
            x = ball.inputs[k, i].item()
            assert lower[k, i].item() == pytest.approx(max(x - radius * unit, 0.0))
            assert upper[k, i].item() == pytest.approx(min(x + radius * unit, 1.0))


# Gradients for training ---------------------------------------------------------------------------------------------


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
