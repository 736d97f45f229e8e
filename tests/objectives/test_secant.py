"""The secant over the ball, against the same thing in the open, and its limits."""

import copy
import math

import pytest
import reference
import torch
from objective_steps import IMAGE, Values, buffers_of, every_norm, generator_for, labelled, parse, terms_of
from plain_objective import plain_objective
from reference import (
    Batch,
    Setup,
    assert_finite_gradients,
    assert_rows,
    conv_student,
    gradients_after,
    linear_student,
    make_batch,
    norm_for,
    smooth_student,
)
from torch import Tensor, nn

from robust_student.core.margins import Form, Score
from robust_student.core.norms import Norm, NormName
from robust_student.core.tensors import UNBOUNDED, UNIT_RANGE, InputRange, Shape
from robust_student.core.threat_model import ThreatModel
from robust_student.objectives.robust_student import RobustStudentObjective
from robust_student.objectives.settings import ObjectiveSettings

SECANTS: dict[str, Values] = {
    "divergence": {"secant": {"weight": 5.0}},
    "divergence, 3 steps": {"secant": {"weight": 5.0, "steps": 3}},
    "divergence, own step": {"secant": {"weight": 5.0, "steps": 2, "step": 0.4}},
    "drop ascent": {"secant": {"weight": 5.0, "ascent": "drop"}},
    "drop ascent, 3 steps": {"secant": {"weight": 5.0, "ascent": "drop", "score": "probability", "steps": 3}},
    "slope": {"secant": {"weight": 0.1, "form": "slope"}},
    "slope, drop ascent, 3 steps": {"secant": {"weight": 0.1, "form": "slope", "ascent": "drop", "steps": 3}},
    "slope of probabilities": {"secant": {"weight": 5.0, "form": "slope", "score": "probability"}},
    "with labels and score": {
        "secant": {"weight": 5.0, "steps": 3},
        "distillation": {"temperature": 4.0, "soft_weight": 0.9},
        "score": {"weight": 0.5},
    },
    "with gradient": {"secant": {"weight": 5.0}, "gradient": {"weight": 3.0}},
    "with gradient, 3 steps": {
        "secant": {"weight": 5.0, "steps": 3, "ascent": "drop"},
        "gradient": {"weight": 0.1, "form": "margin", "score": "logit"},
    },
    "slope with gradient": {"secant": {"weight": 0.1, "form": "slope"}, "gradient": {"weight": 3.0}},
}
WAYS: dict[str, Values] = {
    "shared": {},
    "from a random start": {"shared": False},
    "from the input": {"start": "inputs"},
}

STUDENTS = {"conv": conv_student, "smooth": smooth_student}


def assert_same_step(student: nn.Module, batch: Batch, settings: ObjectiveSettings, setup: Setup) -> None:
    """One training step of the objective equals the one in the open: loss, parameter gradients, buffers."""
    twin = copy.deepcopy(student)
    objective = RobustStudentObjective(student, settings, threat=setup.threat)
    origin = batch.inputs
    if settings.secant.start == "random":
        origin = setup.threat.random(batch.inputs, generator_for(batch))
    trained_at = origin if settings.shared_pass else batch.inputs
    expected = plain_objective(twin, batch, settings, setup, trained_at, origin)
    loss = objective(batch.taught, generator_for(batch)).loss
    torch.testing.assert_close(loss, expected)
    assert setup.radius == objective.threat(batch.inputs.shape[1:]).radius
    torch.testing.assert_close(gradients_after(loss, student), gradients_after(expected, twin), atol=1e-9, rtol=1e-6)
    torch.testing.assert_close(buffers_of(student), buffers_of(twin))


@every_norm
@pytest.mark.parametrize("case", SECANTS)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", STUDENTS)
def test_a_secant_step_is_the_step_computed_in_the_open(
    name: NormName, case: str, way: str, kind: str, device: torch.device
) -> None:
    student, batch = STUDENTS[kind](IMAGE, 3, device).train(), make_batch(IMAGE, device)
    radius = {"l1": 2.0, "l2": 0.6, "linf": 0.1}[name]
    settings = parse(SECANTS[case], {"norm": name, "radius": radius, "secant": SECANTS[case]["secant"] | WAYS[way]})
    assert settings.shared_pass == (way == "shared")
    assert_same_step(student, batch, settings, Setup(Norm.named(name), UNIT_RANGE, radius))


@every_norm
@pytest.mark.parametrize("limits", [InputRange(-1.0, 1.0), InputRange(0.0, 255.0), UNBOUNDED], ids=str)
@pytest.mark.parametrize("shape", [(6,), (2, 5), (2, 3, 3)], ids=str)
@pytest.mark.parametrize("classes", [2, 4])
def test_a_secant_step_follows_the_input_range_the_scale_and_the_shape(
    name: NormName, limits: InputRange, shape: Shape, classes: int, device: torch.device
) -> None:
    norm = norm_for(name, shape, not limits.bounded, device)
    batch = make_batch(shape, device, classes=classes, input_range=limits)
    student = conv_student(shape, classes, device).train()
    setup = Setup(norm, limits, ThreatModel.of(norm, None, limits, shape).budget)
    assert_same_step(student, batch, parse({"norm": name, "secant": {"weight": 5.0, "steps": 2}}), setup)


@every_norm
@pytest.mark.parametrize("limits", [UNIT_RANGE, InputRange(-1.0, 1.0), UNBOUNDED], ids=str)
@pytest.mark.parametrize("way", WAYS)
def test_every_point_the_student_sees_obeys_the_ball_and_the_range(
    name: NormName, limits: InputRange, way: str, smooth: nn.Module, device: torch.device
) -> None:
    norm, batch = norm_for(name, IMAGE, True, device), make_batch(IMAGE, device, input_range=limits)
    seen: list[Tensor] = []
    smooth.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0].detach()))
    secant = {"weight": 1.0, "steps": 3} | WAYS[way]
    terms_of(smooth, batch, {"radius": 0.7, "secant": secant}, threat=ThreatModel(norm, 0.7, limits))
    for points in seen:
        assert norm.size(points - batch.inputs).max().item() <= 0.7 * (1 + 1e-9)
        assert limits.lower <= points.min().item() and points.max().item() <= limits.upper


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize(("way", "extra"), [("shared", 1), ("from a random start", 2), ("from the input", 2)])
@pytest.mark.parametrize("form", ["divergence", "slope"])
def test_a_secant_step_costs_the_documented_number_of_passes(
    steps: int, way: str, extra: int, form: str, smooth: nn.Module, batch: Batch
) -> None:
    passes: list[int] = []
    smooth.register_forward_hook(lambda *_: passes.append(1))
    terms_of(smooth, batch, {"secant": {"weight": 1.0, "steps": steps, "form": form} | WAYS[way]})
    assert len(passes) == steps + extra


@pytest.mark.parametrize("case", SECANTS)
def test_a_scaled_loss_has_scaled_gradients(case: str, smooth: nn.Module, batch: Batch) -> None:
    plain = gradients_after(terms_of(smooth, batch, SECANTS[case]).loss, smooth)
    scaled = gradients_after(1024 * terms_of(smooth, batch, SECANTS[case]).loss, smooth)
    torch.testing.assert_close(scaled, {name: 1024 * g for name, g in plain.items() if g is not None})


def test_the_forward_pass_writes_no_gradients(conv: nn.Module, batch: Batch) -> None:
    terms_of(conv, batch, SECANTS["with gradient"])
    assert all(parameter.grad is None for parameter in conv.parameters()) and batch.inputs.grad is None


def test_a_slope_of_length_zero_counts_nothing(linear: nn.Module, batch: Batch) -> None:
    with torch.no_grad():
        next(linear.parameters()).zero_()
    loss = terms_of(linear, batch, {"secant": {"weight": 1.0, "form": "slope", "start": "inputs"}})
    assert loss.values["secant"].tolist() == [0.0] * len(batch.labels)
    assert_finite_gradients(loss.loss, linear)


@pytest.mark.parametrize("case", SECANTS)
def test_a_secant_from_the_input_needs_no_random_numbers(case: str, smooth: nn.Module, batch: Batch) -> None:
    settings = parse(SECANTS[case], {"secant": SECANTS[case]["secant"] | WAYS["from the input"]})
    objective = RobustStudentObjective(smooth, settings)
    losses = {objective(batch.taught, generator_for(batch, seed)).loss.item() for seed in (1, 2)}
    assert len(losses) == 1


def drop_from_input(name: NormName, radius: float) -> Values:
    secant = {"weight": 1.0, "form": "slope", "ascent": "drop", "start": "inputs", "step": 1.0}
    return {"norm": name, "radius": radius, "secant": secant}


def settled(student: nn.Module, batch: Batch) -> Batch:
    """The batch without examples whose runner-up could change within a short step."""
    rivals = student(batch.inputs).detach().scatter(1, batch.labels[:, None], -math.inf)
    best, second = rivals.topk(2, dim=1).values.unbind(dim=1)
    keep = best - second > 0.1
    return Batch(*(values[keep] for values in batch))


@every_norm
def test_a_short_secant_tends_to_the_exact_slope_at_first_order(name: NormName, device: torch.device) -> None:
    student = smooth_student(IMAGE, 3, device)
    batch = settled(student, make_batch(IMAGE, device, examples=20))
    norm = Norm.named(name)
    exact = [reference.slope(student, x, y, norm, Form.MARGIN, Score.LOGIT) for x, y in labelled(batch)]
    errors = []
    for radius in (1e-3, 5e-4, 2.5e-4):
        terms = terms_of(student, batch, drop_from_input(name, radius), threat=ThreatModel(norm, radius, UNBOUNDED))
        errors.append((terms.values["secant"].cpu() - torch.tensor(exact)).abs().max().item())
    assert errors[0] < 0.01 * max(exact)
    assert [math.log2(a / b) for a, b in zip(errors, errors[1:], strict=False)] == pytest.approx([1.0, 1.0], abs=0.05)


@every_norm
@pytest.mark.parametrize("scaled", [False, True], ids=["plain", "scaled"])
def test_a_secant_of_an_affine_margin_is_its_exact_slope_at_any_length(
    name: NormName, scaled: bool, device: torch.device
) -> None:
    student, norm = linear_student(IMAGE, 2, device), norm_for(name, IMAGE, scaled, device)
    batch = make_batch(IMAGE, device, classes=2)
    terms = terms_of(student, batch, drop_from_input(name, 3.0), threat=ThreatModel(norm, 3.0, UNBOUNDED))
    expected = [reference.slope(student, x, y, norm, Form.MARGIN, Score.LOGIT) for x, y in labelled(batch)]
    assert_rows(terms.values["secant"], expected)
