"""No attack ever succeeds inside a certified radius, and no step leaves its interval: every supported layer kind."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from robust_student.certificates import Certifier
from robust_student.graph import trace
from robust_student.margins import input_gradient, log_odds, margin, margins
from robust_student.models import Residual, build
from robust_student.norms import Norm, NormName
from robust_student.propagation import METHODS_OF_BOUNDS, Method, bound_steps, margin_bounds, margin_slopes
from robust_student.regions import Ball
from robust_student.tensors import UNBOUNDED, UNIT_RANGE, InputRange, column

IMAGE = (2, 6, 6)
CLASSES = 4


class Function(nn.Module):
    """A function with modules of its own."""

    def __init__(self, function: Callable[..., Tensor], *modules: nn.Module) -> None:
        super().__init__()
        self.function, self.parts = function, nn.ModuleList(modules)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.function(inputs, *self.parts)


def conv(*sizes: int, **options: int) -> nn.Conv2d:
    return nn.Conv2d(*sizes, **options)  # type: ignore[arg-type]


def headed(features: int, *layers: nn.Module) -> nn.Module:
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(features, CLASSES))


def concatenated(x: Tensor, first: nn.Module, second: nn.Module) -> Tensor:
    return torch.cat([first(x).relu(), second(x), x], dim=1)


def shortcut(x: Tensor, first: nn.Module) -> Tensor:
    return functional.relu(2 * x - first(x).tanh() + 0.1) + x


def maxout(x: Tensor, first: nn.Module) -> Tensor:
    return first(x).unflatten(1, (3, 2)).amax(dim=2)


def larger(x: Tensor, first: nn.Module, second: nn.Module) -> Tensor:
    return torch.maximum(first(x), second(x))


ZOO: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: headed(72),
    "mlp": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(72, 12), nn.ReLU(), nn.Linear(12, 10), nn.ReLU(), nn.Linear(10, 4)
    ),
    "stride, padding, dilation": lambda: headed(
        12, conv(2, 3, 3, stride=2, padding=2, dilation=2), nn.ReLU(), nn.MaxPool2d(2, 1)
    ),
    "groups and leaky": lambda: headed(64, conv(2, 4, 3, groups=2), nn.LeakyReLU(0.2)),
    "batch norm": lambda: headed(48, conv(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Dropout(0.5)),
    "silu": lambda: headed(48, conv(2, 3, 3), nn.SiLU()),
    "gelu": lambda: headed(48, conv(2, 3, 3), nn.GELU(), conv(3, 3, 3, padding=1), nn.GELU(approximate="tanh")),
    "tanh and sigmoid": lambda: headed(48, conv(2, 3, 3), nn.Tanh(), conv(3, 3, 3, padding=1), nn.Sigmoid()),
    "overlapping max pooling": lambda: headed(27, conv(2, 3, 3, padding=1), nn.MaxPool2d(3, 2, 1), nn.ReLU()),
    "average pooling": lambda: headed(27, conv(2, 3, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2)),
    "adaptive pooling": lambda: headed(12, conv(2, 3, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(3), nn.AdaptiveMaxPool2d(2)),
    "residual": lambda: headed(72, Function(shortcut, conv(2, 2, 3, padding=1))),
    "residual block": lambda: headed(36, Residual(2, 4, 2)),
    "concatenation": lambda: headed(180, Function(concatenated, conv(2, 2, 3, padding=1), conv(2, 1, 3, padding=1))),
    "maxout": lambda: headed(3, nn.Flatten(), Function(maxout, nn.Linear(72, 6))),
    "larger of two": lambda: headed(32, Function(larger, conv(2, 2, 3), conv(2, 2, 3))),
    "absolute": lambda: build("lipschitz:8", IMAGE, CLASSES),
}
NORMS: tuple[NormName, ...] = ("linf", "l2", "l1")
RADII = {"linf": 0.03, "l2": 0.15, "l1": 0.6}


def network_of(kind: str) -> nn.Module:
    """A float64 network with random statistics, large enough weights, in evaluation mode."""
    torch.manual_seed(sorted(ZOO).index(kind))
    network = ZOO[kind]().double()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean = torch.randn_like(module.weight) / 4
            module.running_var = torch.rand_like(module.weight) + 0.5
    return network.eval()


def setup(kind: str, norm_name: NormName, limits: InputRange, scaled: bool) -> tuple[nn.Module, Ball, Tensor]:
    """A network, the balls around six inputs of which some lie at the ends of the range, and its own decisions."""
    network = network_of(kind)
    generator = torch.Generator().manual_seed(1)
    inputs = (1.4 * torch.rand((6, *IMAGE), generator=generator, dtype=torch.float64) - 0.2).clamp(0, 1)
    scale = torch.rand(IMAGE, generator=generator, dtype=torch.float64) + 0.5 if scaled else None
    radius = RADII[norm_name] * torch.tensor([0.2, 0.5, 1.0, 1.0, 2.0, 4.0], dtype=torch.float64)
    return network, Ball(inputs, radius, Norm.named(norm_name, scale), limits), network(inputs).argmax(dim=1)


def points_in(network: nn.Module, ball: Ball, labels: Tensor, count: int = 40) -> Tensor:
    """Random points, points on the surface and points of an ascent against every class, `(points, batch, *shape)`."""
    generator, found = torch.Generator().manual_seed(2), [ball.inputs]
    wide = column(ball.radius, ball.inputs)

    def inside(unit: Tensor) -> Tensor:
        return ball.input_range.clip(ball.inputs + wide * ball.norm.project(unit, 1.0))

    for k in range(count):
        unit = ball.norm.random(ball.inputs, 1.0, generator)
        found.append(inside(unit if k % 2 else unit / column(ball.norm.size(unit), unit)))
    for rival in range(CLASSES):
        point = ball.inputs
        for _ in range(8):
            point = point.detach().requires_grad_()
            uphill = ball.norm.direction(input_gradient(-margins(network(point), labels)[:, rival], point))
            point = inside((point.detach() - ball.inputs) / wide + uphill / 3)
            found.append(point)
    return torch.stack([point.detach() for point in found])


CASES = pytest.mark.parametrize(
    ("norm_name", "limits", "scaled"),
    [("linf", UNIT_RANGE, False), ("l2", UNIT_RANGE, False), ("l1", UNIT_RANGE, True), ("l2", UNBOUNDED, True)],
)


@CASES
@pytest.mark.parametrize("kind", list(ZOO))
def test_bounds_hold_at_every_point(kind: str, norm_name: NormName, limits: InputRange, scaled: bool) -> None:
    network, ball, labels = setup(kind, norm_name, limits, scaled)
    layers = trace(network, IMAGE).layers(torch.float64)
    points = points_in(network, ball, labels)
    seen = torch.stack([margins(network(point), labels) for point in points]).amin(dim=0)
    for method in METHODS_OF_BOUNDS:
        bounds = margin_bounds(layers, ball, labels, method)
        assert bool((bounds <= seen + 1e-9).all()), method
        assert bool((bounds.gather(1, labels[:, None]).abs() < 1e-9).all())
    for linear in (False, True):
        for number, (low, high) in enumerate(bound_steps(layers, ball, linear=linear)):
            for point in points[:: len(points) // 8]:
                value = [point]
                for step in layers.steps[:number]:
                    value.append(step.operation.apply(*(value[k] for k in step.parents)))
                assert bool(((low - 1e-9 <= value[number]) & (value[number] <= high + 1e-9)).all())


@CASES
@pytest.mark.parametrize("kind", list(ZOO))
def test_slopes_hold_at_every_point(kind: str, norm_name: NormName, limits: InputRange, scaled: bool) -> None:
    network, ball, labels = setup(kind, norm_name, limits, scaled)
    layers = trace(network, IMAGE).layers(torch.float64)
    local, everywhere = (margin_slopes(layers, ball, labels, name) for name in ("gradient", "lipschitz"))
    for point in points_in(network, ball, labels, 10):
        point = point.requires_grad_()
        for rival in range(CLASSES):
            size = ball.norm.dual_size(input_gradient(margins(network(point), labels)[:, rival], point))
            assert bool((size <= local[:, rival] * (1 + 1e-9) + 1e-12).all())
            assert bool((size <= everywhere[:, rival] * (1 + 1e-9) + 1e-12).all())


@pytest.mark.parametrize("method", METHODS_OF_BOUNDS)
@pytest.mark.parametrize("norm_name", NORMS)
@pytest.mark.parametrize("scaled", [False, True])
def test_certified_radii_of_a_linear_network_are_the_distances(
    method: Method, norm_name: NormName, scaled: bool
) -> None:
    if method == "lipschitz" and scaled:
        pytest.skip("the Lipschitz product takes the largest scale for all features")
    network, ball, labels = setup("linear", norm_name, UNBOUNDED, scaled)
    weight = network.get_submodule("1").get_parameter("weight").detach()
    certifier = Certifier.of(network, IMAGE, norm=ball.norm, input_range=UNBOUNDED, method=method, tolerance=1e-9)
    found = certifier.decision_radius(ball.inputs, labels)
    values = margins(network(ball.inputs), labels).detach()
    for k, label in enumerate(labels.tolist()):
        rivals = [j for j in range(CLASSES) if j != label]
        sizes = ball.norm.dual_size(torch.stack([(weight[label] - weight[j]).view(IMAGE) for j in rivals]))
        distance = float((values[k, rivals] / sizes).min())
        assert float(found[k]) == pytest.approx(distance, rel=1e-6) and float(found[k]) <= distance


@pytest.mark.parametrize("method", METHODS_OF_BOUNDS)
@pytest.mark.parametrize("norm_name", NORMS)
@pytest.mark.parametrize("kind", ["mlp", "overlapping max pooling", "gelu", "residual block", "maxout", "absolute"])
def test_no_attack_succeeds_inside_a_certified_radius(kind: str, norm_name: NormName, method: Method) -> None:
    network, ball, labels = setup(kind, norm_name, UNIT_RANGE, False)
    teacher = network(ball.inputs) - 0.3 * nn.functional.one_hot(labels, CLASSES)  # a little less confident
    certifier = Certifier.of(network, IMAGE, norm=ball.norm, input_range=UNIT_RANGE, method=method)
    decision = certifier.decision_radius(ball.inputs, labels)
    confidence = certifier.confidence_radius(ball.inputs, labels, teacher.detach())
    assert bool((decision > 0).all()) or method == "lipschitz"
    wanted = log_odds(teacher, labels)
    for radius, meaning in ((decision, "A"), (confidence, "B")):
        inner = Ball(ball.inputs, radius.clamp_min(1e-12), ball.norm, UNIT_RANGE)
        for point in points_in(network, inner, labels):
            logits = network(point)
            lost = margin(logits, labels) < 0 if meaning == "A" else log_odds(logits, labels) < wanted
            assert not bool((lost & (radius > 0)).any())
