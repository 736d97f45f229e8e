import copy
import math
from collections.abc import Mapping
from typing import Any

import pytest
import reference
import torch
from plain_objective import plain_ascent, plain_divergence, plain_objective
from reference import (
    NORMS,
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

from robust_student.core.errors import UserError
from robust_student.core.margins import Form, Score
from robust_student.core.norms import Norm, NormName
from robust_student.core.tensors import UNBOUNDED, UNIT_RANGE, InputRange, Shape
from robust_student.core.threat_model import ThreatModel
from robust_student.objectives import gradient_penalties
from robust_student.objectives.batch import Terms
from robust_student.objectives.distillation import check_classes, distillation_term
from robust_student.objectives.gradient_penalties import projected_jacobian
from robust_student.objectives.methods import METHODS
from robust_student.objectives.robust_student import RobustStudentObjective
from robust_student.objectives.settings import ObjectiveSettings

IMAGE: Shape = (2, 4, 4)
Values = dict[str, Any]
every_norm = pytest.mark.parametrize("name", NORMS)
every_score = pytest.mark.parametrize("score", list(Score))
every_preset = pytest.mark.parametrize("method", sorted(METHODS))


@pytest.fixture
def batch(device: torch.device) -> Batch:
    return make_batch(IMAGE, device)


def parse(*values: Values) -> ObjectiveSettings:
    """Settings out of nested dictionaries, merged."""
    merged: Values = {}
    for change in values:
        merged |= change
    return ObjectiveSettings.parse(merged)


def generator_for(batch: Batch, seed: int = 0) -> torch.Generator:
    return torch.Generator(batch.inputs.device).manual_seed(seed)


def terms_of(student: nn.Module, batch: Batch, *values: Values, **options: Any) -> Terms:
    """The terms of one call with a generator of seed 0."""
    return RobustStudentObjective(student, parse(*values), **options)(batch.taught, generator_for(batch))


def buffers_of(student: nn.Module) -> dict[str, Tensor]:
    return {name: buffer.clone() for name, buffer in student.named_buffers()}


def assert_identical(actual: Mapping[str, Tensor | None], expected: Mapping[str, Tensor | None]) -> None:
    """The same names, the same bits."""
    torch.testing.assert_close(actual, expected, rtol=0.0, atol=0.0)


def labelled(batch: Batch) -> list[tuple[Tensor, int]]:
    return list(zip(batch.inputs, batch.labels.tolist(), strict=True))


def score_rows(student: nn.Module, batch: Batch) -> list[tuple[list[float], list[float], int]]:
    """Student's scores, teacher's scores and label of each example."""
    rows = student(batch.inputs).tolist(), batch.teacher_logits.tolist(), batch.labels.tolist()
    return list(zip(*rows, strict=True))


# Terms one by one ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("temperature", "soft_weight"), [(1.0, 1.0), (4.0, 0.9), (2.0, 0.0), (0.5, 0.3)])
def test_distillation_matches_the_loop(temperature: float, soft_weight: float, smooth: nn.Module, batch: Batch) -> None:
    settings = {"distillation": {"temperature": temperature, "soft_weight": soft_weight}}
    expected = [reference.distillation(s, t, y, temperature, soft_weight) for s, t, y in score_rows(smooth, batch)]
    assert_rows(terms_of(smooth, batch, settings).values["distillation"], expected)


def test_distillation_is_zero_for_a_perfect_copy_of_the_teacher(smooth: nn.Module, batch: Batch) -> None:
    copied = batch._replace(teacher_logits=smooth(batch.inputs).detach() + 3.0)
    assert terms_of(smooth, copied, {"distillation": {"temperature": 4.0}}).loss.item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("form", "score"), [("margin", "logit"), ("margin", "probability"), ("teacher", "probability")]
)
@pytest.mark.parametrize("reduce", ["max", "mean"])
@pytest.mark.parametrize("slack", [0.0, 0.3, -0.2])
def test_score_matches_the_loop(
    form: str, score: str, reduce: str, slack: float, smooth: nn.Module, batch: Batch
) -> None:
    settings = parse({"score": {"weight": 2.0, "form": form, "score": score, "reduce": reduce, "slack": slack}})
    expected = [reference.score_hinge(s, t, y, settings.score) for s, t, y in score_rows(smooth, batch)]
    assert sum(value > 0 for value in expected) > 0
    terms = RobustStudentObjective(smooth, settings)(batch.taught)
    assert_rows(terms.values["score"], expected)


@every_norm
@pytest.mark.parametrize("form", list(Form))
@every_score
def test_exact_gradient_matches_the_loop(
    name: NormName, form: Form, score: Score, smooth: nn.Module, batch: Batch
) -> None:
    terms = terms_of(smooth, batch, {"norm": name, "gradient": {"weight": 2.0, "form": form, "score": score}})
    expected = [reference.slope(smooth, x, y, Norm.named(name), form, score) for x, y in labelled(batch)]
    assert_rows(terms.values["gradient"], expected)


@every_norm
def test_direct_gradient_matches_the_loop(name: NormName, smooth: nn.Module, batch: Batch) -> None:
    terms = terms_of(smooth, batch, {"norm": name, "gradient": {"weight": 2.0, "kind": "direct", "target": 0.4}})
    expected = [reference.radius_hinge(smooth, x, y, Norm.named(name), 0.4) for x, y in labelled(batch)]
    assert_rows(terms.values["gradient"], expected)


@every_score
def test_projection_gradient_draws_from_the_generator(score: Score, smooth: nn.Module, batch: Batch) -> None:
    kind = {"weight": 2.0, "kind": "projection", "score": score, "projections": 3}
    terms = terms_of(smooth, batch, {"norm": "l2", "gradient": kind})
    points = batch.inputs.clone().requires_grad_()
    expected = projected_jacobian(
        smooth(points), points, Norm.named("l2"), score=score, projections=3, source=generator_for(batch)
    )
    torch.testing.assert_close(terms.values["gradient"], expected)


@every_norm
def test_gradient_in_the_ball_is_taken_at_a_random_point_of_it(name: NormName, smooth: nn.Module, batch: Batch) -> None:
    kind = {"weight": 2.0, "at": "ball", "form": "margin", "score": "logit"}
    terms = terms_of(smooth, batch, {"norm": name, "radius": 0.4, "gradient": kind})
    norm = Norm.named(name)
    points = ThreatModel(norm, 0.4, UNIT_RANGE).random(batch.inputs, generator_for(batch))
    moved = batch._replace(inputs=points)
    expected = [reference.slope(smooth, x, y, norm, Form.MARGIN, Score.LOGIT) for x, y in labelled(moved)]
    assert_rows(terms.values["gradient"], expected)
    assert_rows(
        terms.values["distillation"],
        [reference.distillation(s, t, y, 1.0, 1.0) for s, t, y in score_rows(smooth, batch)],
    )


@every_preset
def test_loss_is_the_weighted_sum_of_the_terms_means(method: str, conv: nn.Module, batch: Batch) -> None:
    settings = METHODS[method]
    terms = RobustStudentObjective(conv, settings)(batch.taught, generator_for(batch))
    weights = {term.name: term.weight for term in settings.terms() if term.weight > 0}
    assert terms.weights == weights and terms.values.keys() == weights.keys()
    assert all(value.shape == batch.labels.shape for value in terms.values.values())
    total = sum(weight * sum(terms.values[name].tolist()) / len(batch.labels) for name, weight in weights.items())
    assert terms.loss.item() == pytest.approx(total)


# Plain distillation -------------------------------------------------------------------------------------------------


def test_zero_weights_are_plain_distillation_to_the_last_bit(conv: nn.Module, batch: Batch) -> None:
    plain, settings = copy.deepcopy(conv), METHODS["kd"]
    generator = generator_for(batch)
    loss = RobustStudentObjective(conv, settings)(batch.taught, generator).loss
    expected = distillation_term(plain(batch.inputs), batch.teacher_logits, batch.labels, settings.distillation).mean()
    assert torch.equal(loss, expected)
    assert_identical(gradients_after(loss, conv), gradients_after(expected, plain))
    assert_identical(buffers_of(conv), buffers_of(plain))
    assert torch.equal(generator.get_state(), generator_for(batch).get_state())


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("norm", NORMS)
def test_the_dials_of_terms_without_weight_change_nothing(mode: str, norm: str, conv: nn.Module, batch: Batch) -> None:
    unused = {
        "norm": norm,
        "radius": 0.3,
        "gradient_mode": mode,
        "score": {"slack": 1.0},
        "gradient": {"at": "ball", "kind": "direct"},
        "secant": {"steps": 3, "form": "slope"},
    }
    plain = copy.deepcopy(conv)
    assert torch.equal(terms_of(conv, batch, unused).loss, terms_of(plain, batch).loss)
    assert_identical(buffers_of(conv), buffers_of(plain))


def test_the_default_objective_is_the_secant_method(smooth: nn.Module) -> None:
    assert RobustStudentObjective(smooth).settings == METHODS["secant"]


# The secant over the ball, against the same thing in the open -------------------------------------------------------

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
    "from the input": {"random_start": False},
}
STUDENTS = {"conv": conv_student, "smooth": smooth_student}


def assert_same_step(student: nn.Module, batch: Batch, settings: ObjectiveSettings, setup: Setup) -> None:
    """One training step of the objective equals the one in the open: loss, parameter gradients, buffers."""
    twin = copy.deepcopy(student)
    objective = RobustStudentObjective(student, settings, threat=setup.threat)
    origin = batch.inputs
    if settings.secant.random_start:
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
    loss = terms_of(linear, batch, {"secant": {"weight": 1.0, "form": "slope", "random_start": False}})
    assert loss.values["secant"].tolist() == [0.0] * len(batch.labels)
    assert_finite_gradients(loss.loss, linear)


# Limits of the secant -----------------------------------------------------------------------------------------------


def drop_from_input(name: NormName, radius: float) -> Values:
    secant = {"weight": 1.0, "form": "slope", "ascent": "drop", "random_start": False, "step": 1.0}
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


# BatchNorm, modes and buffers ---------------------------------------------------------------------------------------

EXACT: Values = {"gradient": {"weight": 1.0}}
EVAL: Values = {"gradient_mode": "eval"}
GRADIENTS: dict[str, Values] = {
    "exact": EXACT,
    "exact in the ball": {"gradient": {"weight": 1.0, "at": "ball"}},
    "direct": {"gradient": {"weight": 1.0, "kind": "direct"}},
    "projection": {"norm": "l2", "gradient": {"weight": 1.0, "kind": "projection"}},
}


def with_other_neighbours(batch: Batch) -> Batch:
    """The same first example among different ones."""
    inputs = batch.inputs.clone()
    inputs[1:] = 1 - inputs[1:] ** 2
    return batch._replace(inputs=inputs)


@pytest.mark.parametrize(("mode", "coupled"), [("train", True), ("eval", False)])
def test_batchnorm_couples_the_gradients_of_a_batch_in_training_mode_only(
    mode: str, coupled: bool, conv: nn.Module, batch: Batch
) -> None:
    for module in conv.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.0  # or else the step's own update of the statistics couples the examples as well
    settings = EXACT | {"gradient_mode": mode}
    alone, elsewhere = (
        terms_of(copy.deepcopy(conv), b, settings).values["gradient"][0].item()
        for b in (batch, with_other_neighbours(batch))
    )
    assert (alone != pytest.approx(elsewhere, rel=1e-6)) == coupled


@every_norm
def test_eval_mode_gradient_is_the_loop_over_single_examples(name: NormName, conv: nn.Module, batch: Batch) -> None:
    settings = parse({"norm": name}, EXACT, EVAL)
    terms = RobustStudentObjective(conv, settings)(batch.taught)
    judge = copy.deepcopy(conv).eval()
    kind = settings.gradient
    expected = [reference.slope(judge, x, y, Norm.named(name), kind.form, kind.score) for x, y in labelled(batch)]
    assert_rows(terms.values["gradient"], expected)


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("kind", GRADIENTS)
def test_gradient_terms_leave_the_buffers_of_plain_distillation(
    mode: str, kind: str, conv: nn.Module, batch: Batch
) -> None:
    plain = copy.deepcopy(conv)
    terms_of(plain, batch)
    terms_of(conv, batch, GRADIENTS[kind], {"gradient_mode": mode})
    assert_identical(buffers_of(conv), buffers_of(plain))


def test_distillation_stays_in_training_mode_when_gradients_are_taken_in_eval_mode(
    conv: nn.Module, batch: Batch
) -> None:
    plain = terms_of(copy.deepcopy(conv), batch).values["distillation"]
    assert torch.equal(terms_of(conv, batch, EXACT, EVAL).values["distillation"], plain)


@pytest.mark.parametrize(
    ("settings", "trained_passes"),
    [
        ({"secant": {"weight": 1.0, "steps": 3}}, 2),
        ({"secant": {"weight": 1.0, "steps": 3, "shared": False}}, 2),
        ({"secant": {"weight": 1.0, "steps": 3, "shared": False}} | EVAL, 2),
        ({"secant": {"weight": 1.0, "steps": 3, "shared": False, "form": "slope"}}, 2),
        ({"secant": {"weight": 1.0, "steps": 3, "shared": False, "form": "slope"}} | EVAL, 1),
    ],
    ids=["shared", "unshared", "eval", "slope", "slope, eval"],
)
def test_buffers_follow_the_passes_that_train_and_not_the_ascent(
    settings: Values, trained_passes: int, conv: nn.Module, batch: Batch
) -> None:
    terms_of(conv, batch, settings)
    assert conv.get_buffer("1.num_batches_tracked").item() == trained_passes


@every_norm
def test_eval_mode_slope_has_both_ends_and_its_ascent_in_eval_mode(
    name: NormName, conv: nn.Module, batch: Batch
) -> None:
    settings = {"norm": name, "secant": {"weight": 1.0, "form": "slope", "shared": False, "steps": 2}} | EVAL
    slope = terms_of(conv, batch, settings).values["secant"]
    judge = copy.deepcopy(conv).eval()
    expected = terms_of(judge, batch, settings | {"gradient_mode": "train"}).values["secant"]
    torch.testing.assert_close(slope, expected)
    torch.testing.assert_close(gradients_after(slope.sum(), conv), gradients_after(expected.sum(), judge))


def test_eval_mode_divergence_climbs_in_eval_mode_and_trains_in_training_mode(conv: nn.Module, batch: Batch) -> None:
    secant = {"weight": 1.0, "shared": False, "random_start": False, "step": 1.0}
    terms = terms_of(copy.deepcopy(conv), batch, {"radius": 0.1, "secant": secant}, EVAL)

    def divergence(logits: Tensor) -> Tensor:
        return plain_divergence(logits, batch.teacher_logits, 1.0)

    conv(batch.inputs)
    judge, setup = copy.deepcopy(conv).eval(), Setup(Norm.named("linf"), UNIT_RANGE, 0.1)
    reached = plain_ascent(judge, [divergence], batch.inputs, batch.inputs, setup, 0.1)
    torch.testing.assert_close(terms.values["secant"], divergence(conv(reached)))


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("kind", [*GRADIENTS, "secant"])
def test_every_modules_mode_is_restored(mode: str, kind: str, conv: nn.Module, batch: Batch) -> None:
    frozen = conv.get_submodule("1").eval()
    settings = GRADIENTS.get(kind, {"secant": {"weight": 1.0, "form": "slope", "shared": False}})
    before = buffers_of(conv)
    terms_of(conv, batch, settings, {"gradient_mode": mode})
    assert [module for module in conv.modules() if not module.training] == [frozen]
    assert_identical(buffers_of(conv), before)


def test_modes_are_restored_when_the_student_fails(conv: nn.Module, batch: Batch) -> None:
    def refuse(module: nn.Module, _: object) -> None:
        if not module.training:
            raise RuntimeError("no evaluation")

    objective = RobustStudentObjective(conv, parse({"secant": {"weight": 1.0, "shared": False}}, EVAL))
    conv.register_forward_pre_hook(refuse)
    with pytest.raises(RuntimeError, match="no evaluation"):
        objective(batch.taught)
    assert all(module.training for module in conv.modules())


# Students of all kinds ----------------------------------------------------------------------------------------------


@every_preset
@pytest.mark.parametrize("shape", [(6,), (2, 5), (1, 4, 4)], ids=str)
def test_every_method_has_finite_float32_gradients(method: str, shape: Shape, any_device: torch.device) -> None:
    cpu = torch.device("cpu")
    student = conv_student(shape, 4, cpu).float().to(any_device).train()
    batch = make_batch(shape, cpu, classes=4)
    inputs, labels, teacher_logits = (v.float() if v.is_floating_point() else v for v in batch)
    inputs[0], inputs[1] = 0.0, 1.0
    objective = RobustStudentObjective(student, METHODS[method])
    moved = Batch(inputs.to(any_device), labels.to(any_device), teacher_logits.to(any_device))
    loss = objective(moved.taught).loss
    assert loss.dtype is torch.float32 and loss.isfinite()
    assert_finite_gradients(loss, student)


@every_preset
@pytest.mark.parametrize("scale", [1e-6, 1e6], ids=["almost flat", "saturated"])
def test_gradients_stay_finite_for_extreme_float32_logits(method: str, scale: float, any_device: torch.device) -> None:
    cpu = torch.device("cpu")
    student = nn.Sequential(linear_student((6,), 3, cpu).float()).to(any_device)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.mul_(scale)
    inputs, labels, teacher_logits = (v.to(any_device) for v in make_batch((6,), cpu))
    loss = RobustStudentObjective(student, METHODS[method])(
        Batch(inputs.float(), labels, teacher_logits.float()).taught
    ).loss
    assert loss.isfinite()
    assert_finite_gradients(loss, student)


@every_preset
def test_a_batch_of_one_works(method: str, smooth: nn.Module, device: torch.device) -> None:
    loss = RobustStudentObjective(smooth, METHODS[method])(make_batch(IMAGE, device, examples=1).taught).loss
    assert_finite_gradients(loss, smooth)


class PartlyUsed(nn.Module):
    """A student with a layer that takes no part and one that is frozen."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.frozen = nn.Linear(32, 32).double().requires_grad_(False)
        self.body = body
        self.unused = nn.Linear(2, 2).double()

    def forward(self, inputs: Tensor) -> Tensor:
        return self.body(self.frozen(inputs.flatten(1)).view_as(inputs))


@every_preset
def test_unused_and_frozen_parameters_get_no_gradient_and_the_others_do(
    method: str, conv: nn.Module, batch: Batch, device: torch.device
) -> None:
    student = PartlyUsed(conv).to(device)
    loss = RobustStudentObjective(student, METHODS[method])(batch.taught).loss
    with_gradient = {name.split(".")[0] for name, g in gradients_after(loss, student).items() if g is not None}
    assert with_gradient == {"body"}


RANDOM: dict[str, Values] = {
    "shared": SECANTS["divergence"],
    "unshared": {"secant": {"weight": 5.0, "shared": False}},
    "ball": GRADIENTS["exact in the ball"],
    "projection": GRADIENTS["projection"],
    "all": {"norm": "l2", "secant": {"weight": 5.0}, "gradient": {"weight": 1.0, "kind": "projection"}},
}


@pytest.mark.parametrize("case", RANDOM)
def test_a_step_is_repeatable_with_the_same_generator_seed_only(case: str, smooth: nn.Module, batch: Batch) -> None:
    objective = RobustStudentObjective(smooth, parse(RANDOM[case]))
    losses = [objective(batch.taught, generator_for(batch, seed)).loss.item() for seed in (1, 1, 2)]
    assert losses[0] == losses[1] != losses[2]


@pytest.mark.parametrize("case", SECANTS)
def test_a_secant_from_the_input_needs_no_random_numbers(case: str, smooth: nn.Module, batch: Batch) -> None:
    settings = parse(SECANTS[case], {"secant": SECANTS[case]["secant"] | WAYS["from the input"]})
    objective = RobustStudentObjective(smooth, settings)
    losses = {objective(batch.taught, generator_for(batch, seed)).loss.item() for seed in (1, 2)}
    assert len(losses) == 1


def test_radius_is_the_setting_or_the_norms_default(smooth: nn.Module) -> None:
    assert RobustStudentObjective(smooth, parse({"radius": 0.7})).threat(IMAGE).radius == 0.7
    assert RobustStudentObjective(smooth, parse({})).threat(IMAGE).radius == 0.1
    threat = ThreatModel.named("l2", None, InputRange(0.0, 10.0), IMAGE)
    assert RobustStudentObjective(smooth, parse({}), threat=threat).threat(IMAGE) is threat


@pytest.mark.parametrize(("weight", "probes"), [(1.0, 1), (0.0, 0)])
def test_second_derivatives_are_probed_once_and_only_for_the_gradient_term(
    weight: float, probes: int, smooth: nn.Module, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    monkeypatch.setattr(gradient_penalties, "require_twice_differentiable", lambda *_: calls.append(1))
    objective = RobustStudentObjective(smooth, parse({"gradient": {"weight": weight}}))
    for _ in range(2):
        objective(batch.taught)
    assert len(calls) == probes


def test_projection_with_an_overriding_norm_other_than_l2_is_an_error(smooth: nn.Module, batch: Batch) -> None:
    with pytest.raises(UserError, match="needs norm l2, not linf"):
        terms_of(smooth, batch, GRADIENTS["projection"], threat=ThreatModel.named("linf", 0.1, UNIT_RANGE, IMAGE))


def test_teacher_and_student_must_agree_on_the_number_of_classes() -> None:
    check_classes(torch.zeros(2, 3), torch.zeros(2, 3))
    with pytest.raises(UserError, match="student has 3 classes, teacher 4"):
        check_classes(torch.zeros(2, 3), torch.zeros(2, 4))
