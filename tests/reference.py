"""Slow, independent oracles (loops over examples and classes, numpy, scipy) and the small students they judge.

Nothing here calls the code under test, except that oracles read the order and the scale of a `Norm`, and the plain
values of the settings.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from reference_norm import Array, ReferenceNorm
from torch import Tensor, nn

from robust_student.core.errors import UserError
from robust_student.core.margins import Form, Score
from robust_student.core.norms import Norm, NormName
from robust_student.core.tensors import UNIT_RANGE, InputRange, Shape
from robust_student.core.threat_model import ThreatModel
from robust_student.data.readers.load import Data, Examples
from robust_student.objectives import batch as objectives
from robust_student.objectives.score_hinge import ScoreSettings

NORMS: tuple[NormName, ...] = ("l1", "l2", "linf")


class Batch(NamedTuple):
    """One batch to train on."""

    inputs: Tensor
    labels: Tensor
    teacher_logits: Tensor

    @property
    def taught(self) -> objectives.Batch:
        """The same for an objective, with a teacher whose logits change linearly around the inputs."""

        def teacher(points: Tensor) -> Tensor:
            moved = (points - self.inputs).flatten(1).sum(dim=1, keepdim=True)
            return self.teacher_logits + moved * torch.linspace(-1, 1, self.teacher_logits.shape[1]).to(moved)

        numbers = torch.arange(len(self.labels), device=self.labels.device)
        return objectives.Batch(self.inputs, self.labels, numbers, teacher_logits=self.teacher_logits, teacher=teacher)


class Setup(NamedTuple):
    """The geometry of an objective."""

    norm: Norm
    input_range: InputRange
    radius: float

    @property
    def threat(self) -> ThreatModel:
        return ThreatModel(self.norm, self.radius, self.input_range)


# Small students and batches -------------------------------------------------------------------------------------------


def seeded(build: Callable[[], nn.Module], device: torch.device, seed: int = 0) -> nn.Module:
    """A float64 module whose weights depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build().double().to(device)


def linear_student(shape: Shape, classes: int, device: torch.device) -> nn.Module:
    """Logits that are affine in the input: every first-order quantity is exact."""
    return seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), classes)), device)


def smooth_student(shape: Shape, classes: int, device: torch.device) -> nn.Module:
    """A Tanh MLP: no kinks, so that finite differences converge at their textbook order."""
    return seeded(
        lambda: nn.Sequential(
            nn.Flatten(), nn.Linear(math.prod(shape), 7), nn.Tanh(), nn.Linear(7, classes, bias=False)
        ),
        device,
    )


def conv_student(shape: Shape, classes: int, device: torch.device) -> nn.Module:
    """Convolution, BatchNorm and ReLU for inputs `(c, l)` and `(c, h, w)`; a linear layer for `(d,)`."""

    def build() -> nn.Module:
        if len(shape) == 1:
            layers: list[nn.Module] = [nn.Linear(shape[0], 4), nn.BatchNorm1d(4)]
        elif len(shape) == 2:
            layers = [nn.Conv1d(shape[0], 4, 3, padding=1), nn.BatchNorm1d(4)]
        else:
            layers = [nn.Conv2d(shape[0], 4, 3, padding=1), nn.BatchNorm2d(4)]
        return nn.Sequential(*layers, nn.ReLU(), nn.Flatten(), nn.Linear(4 * math.prod(shape[1:]), classes))

    return seeded(build, device)


def make_batch(
    shape: Shape,
    device: torch.device,
    *,
    classes: int = 3,
    examples: int = 6,
    seed: int = 1,
    input_range: InputRange = UNIT_RANGE,
) -> Batch:
    """A float64 batch inside the range (standard normal when there is none), with made-up teacher scores."""
    generator = torch.Generator().manual_seed(seed)
    if input_range.bounded:
        unit = torch.rand((examples, *shape), generator=generator, dtype=torch.float64)
        inputs = input_range.lower + input_range.width * unit
    else:
        inputs = torch.randn((examples, *shape), generator=generator, dtype=torch.float64)
    labels = torch.randint(classes, (examples,), generator=generator)
    teacher_logits = 2 * torch.randn((examples, classes), generator=generator, dtype=torch.float64)
    return Batch(inputs.to(device), labels.to(device), teacher_logits.to(device))


def norm_for(name: NormName, shape: Shape, scaled: bool, device: torch.device) -> Norm:
    """The norm of that name, with a different unit for every feature if `scaled`."""
    scale = torch.linspace(0.5, 2.0, math.prod(shape), dtype=torch.float64, device=device).view(shape)
    return Norm.named(name, scale if scaled else None)


def rows(values: Tensor) -> Array:
    """One flat float64 row per example."""
    return values.detach().cpu().double().flatten(1).numpy()


def vectors(size: int, limit: float = 3.0) -> st.SearchStrategy[list[float]]:
    """Lists of `size` numbers, zeros and repeated values included."""
    return st.lists(st.floats(-limit, limit, allow_subnormal=False), min_size=size, max_size=size)


def assert_rows(actual: Tensor, expected: Iterable[object], tolerance: float = 1e-9) -> None:
    """Check one value or row per example."""
    np.testing.assert_allclose(
        actual.detach().cpu().double().numpy(), np.array(list(expected)), rtol=tolerance, atol=tolerance
    )


def gradients_after(loss: Tensor, student: nn.Module) -> dict[str, Tensor | None]:
    """What a backward pass of the loss leaves in each parameter's `.grad`."""
    student.zero_grad()
    torch.autograd.backward(loss)
    return {name: None if p.grad is None else p.grad.clone() for name, p in student.named_parameters()}


def assert_finite_gradients(loss: Tensor, student: nn.Module) -> None:
    """Check that a backward pass reaches the parameters, and with finite numbers only."""
    gradients = {name: g for name, g in gradients_after(loss, student).items() if g is not None}
    assert gradients and [name for name, g in gradients.items() if not g.isfinite().all()] == []


def jacobian(function: Callable[[Tensor], Tensor], point: Tensor) -> Tensor:
    """d function / d point of one example, by torch."""
    slopes: Tensor = torch.autograd.functional.jacobian(function, point)  # type: ignore[no-untyped-call]
    return slopes.detach()


# Scores and slopes, one example at a time -----------------------------------------------------------------------------


def softmax(row: Sequence[float]) -> list[float]:
    weights = [math.exp(value - max(row)) for value in row]
    return [weight / sum(weights) for weight in weights]


def scored(row: Sequence[float], score: Score) -> list[float]:
    return list(row) if score is Score.LOGIT else softmax(row)


def rivals(row: Sequence[float], label: int) -> list[int]:
    return [j for j in range(len(row)) if j != label]


def margin(row: Sequence[float], label: int) -> float:
    return min(row[label] - row[j] for j in rivals(row, label))


def runner_up(row: Sequence[float], label: int) -> int:
    return max(rivals(row, label), key=lambda j: row[j])


def distillation(
    student: Sequence[float], teacher: Sequence[float], label: int, temperature: float, soft: float
) -> float:
    hot_student, hot_teacher = (softmax([v / temperature for v in row]) for row in (student, teacher))
    divergence = sum(t * (math.log(t) - math.log(s)) for t, s in zip(hot_teacher, hot_student, strict=True))
    return (1 - soft) * -math.log(softmax(student)[label]) + soft * temperature**2 * divergence


def score_hinge(student: Sequence[float], teacher: Sequence[float], label: int, settings: ScoreSettings) -> float:
    s, t = scored(student, settings.score), scored(teacher, settings.score)
    if settings.form is Form.TEACHER:
        return max(t[label] - s[label] + settings.slack, 0.0)
    hinges = [max((t[label] - t[j]) - (s[label] - s[j]) + settings.slack, 0.0) for j in rivals(s, label)]
    return max(hinges) if settings.reduce == "max" else sum(hinges) / len(hinges)


def score_jacobian(student: nn.Module, point: Tensor, score: Score) -> Array:
    """d scores / d input of a single example, `(classes, elements)`; the softmax by its textbook derivative."""
    logits = student(point[None])[0].tolist()
    slopes = rows(jacobian(lambda x: student(x[None])[0], point))
    if score is Score.LOGIT:
        return slopes
    p = softmax(logits)
    mean = sum(p[k] * slopes[k] for k in range(len(p)))
    return np.stack([p[k] * (slopes[k] - mean) for k in range(len(p))])


def slope(student: nn.Module, point: Tensor, label: int, norm: Norm, form: Form, score: Score) -> float:
    """||grad (S_y - S_j*)||_q^2 or ||grad S_y||_q^2 of a single example."""
    slopes = score_jacobian(student, point, score)
    gradient = slopes[label]
    if form is Form.MARGIN:
        gradient = gradient - slopes[runner_up(student(point[None])[0].tolist(), label)]
    return ReferenceNorm(norm, tuple(point.shape)).dual_size(gradient) ** 2


def decision_radius(student: nn.Module, point: Tensor, label: int, norm: Norm, count: int | None = None) -> float:
    """min over the `count` nearest rivals of m_j / ||grad m_j||_q, 0 where the decision is wrong."""
    row = student(point[None])[0].tolist()
    if margin(row, label) <= 0:
        return 0.0
    gradients = score_jacobian(student, point, Score.LOGIT)
    reference = ReferenceNorm(norm, tuple(point.shape))
    nearest = sorted(rivals(row, label), key=lambda j: row[label] - row[j])[:count]
    slopes = {j: reference.dual_size(gradients[label] - gradients[j]) for j in nearest}
    return min((row[label] - row[j]) / slopes[j] if slopes[j] > 0 else math.inf for j in nearest)


def radius_hinge(student: nn.Module, point: Tensor, label: int, norm: Norm, target: float) -> float:
    radius = decision_radius(student, point, label, norm, count=1)
    return max(target - radius, 0.0) + max(-margin(student(point[None])[0].tolist(), label), 0.0)


# Small data sets and models of known weights --------------------------------------------------------------------------


def toy_data(
    *,
    train: int = 60,
    test: int = 30,
    classes: int = 3,
    shape: Shape = (1, 4, 4),
    input_range: InputRange = UNIT_RANGE,
    noise: float = 0.15,
    scale: Tensor | None = None,
    seed: int = 0,
) -> Data:
    """One random prototype per class plus noise, clipped to the range; labels take turns."""
    generator = torch.Generator().manual_seed(seed)
    prototypes = torch.rand((classes, *shape), generator=generator)

    def examples(count: int) -> Examples:
        labels = torch.arange(count) % classes
        drawn = prototypes[labels] + noise * torch.randn((count, *shape), generator=generator)
        return Examples(input_range.clip(drawn), labels)

    names = tuple(f"class {k}" for k in range(classes))
    return Data("toy", examples(train), examples(test), names, input_range, scale)


def affine(weight: Tensor, bias: Tensor | None = None) -> nn.Module:
    """logits = W flatten(x) + b with the given numbers."""
    # skip_init leaves the global generator alone
    layer: nn.Linear = nn.utils.skip_init(nn.Linear, *weight.shape[::-1])  # type: ignore[no-untyped-call]
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(torch.zeros(weight.shape[0]) if bias is None else bias)
    return nn.Sequential(nn.Flatten(), layer)


def prototype_classifier(data: Data) -> nn.Module:
    """The affine classifier that picks the nearest class mean of the training set: good at `toy_data`."""
    inputs = data.training_examples.floats().flatten(1)
    means = torch.stack([inputs[data.training_examples.labels == k].mean(dim=0) for k in range(len(data.classes))])
    return affine(8 * means, -4 * means.square().sum(dim=1))


class Silent(nn.Module):
    """NaN logits for bright inputs, else a nearest-prototype classifier."""

    def __init__(self, data: Data, above: float) -> None:
        super().__init__()
        self.inner, self.above = prototype_classifier(data), above

    def forward(self, inputs: Tensor) -> Tensor:
        bright = inputs.mean(dim=(1, 2, 3)) > self.above
        return self.inner(inputs).masked_fill(bright[:, None], float("nan"))


def as_numpy(values: Tensor) -> Array:
    """Float64 copy."""
    return values.detach().cpu().double().numpy()


def state_of(network: nn.Module) -> dict[str, Tensor]:
    """A copy of all parameters and buffers."""
    return {name: value.detach().cpu().clone() for name, value in network.state_dict().items()}


def same_state(network: nn.Module, expected: Mapping[str, Tensor]) -> bool:
    """Whether all parameters and buffers are those, to the bit."""
    state = state_of(network)
    return list(state) == list(expected) and all(torch.equal(state[name], expected[name]) for name in expected)


def assert_state(network: nn.Module, expected: Mapping[str, Tensor]) -> None:
    """Check that all parameters and buffers are those, to the bit."""
    assert same_state(network, expected)


def message_of(action: Callable[[], object]) -> str:
    """The one-line complaint of the action."""
    with pytest.raises(UserError) as error:
        action()
    message = str(error.value)
    assert len(message.splitlines()) == 1
    return message
