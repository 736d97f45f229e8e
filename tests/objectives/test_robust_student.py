"""The terms of the objective one by one, their sum, and students of all kinds."""

import copy

import pytest
import reference
import torch
from objective_steps import (
    GRADIENTS,
    IMAGE,
    Values,
    assert_identical,
    buffers_of,
    every_norm,
    every_preset,
    every_score,
    generator_for,
    labelled,
    objective_of,
    parse,
    terms_of,
)
from reference import (
    NORMS,
    Batch,
    assert_finite_gradients,
    assert_rows,
    conv_student,
    gradients_after,
    linear_student,
    make_batch,
)
from torch import Tensor, nn

from robust_student.core.errors import UserError
from robust_student.core.margins import Form, Score
from robust_student.core.norms import Norm, NormName
from robust_student.core.tensors import UNIT_RANGE, InputRange, Shape
from robust_student.core.threat_model import ThreatModel
from robust_student.objectives import gradient_penalties
from robust_student.objectives.distillation import check_classes, distillation_term
from robust_student.objectives.gradient_penalties import projected_jacobian
from robust_student.objectives.methods import METHODS
from robust_student.objectives.robust_student import RobustStudentObjective


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
    terms = objective_of(method, conv, batch)(batch.taught, generator_for(batch))
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


# Students of all kinds ----------------------------------------------------------------------------------------------


@every_preset
@pytest.mark.parametrize("shape", [(6,), (2, 5), (1, 4, 4)], ids=str)
def test_every_method_has_finite_float32_gradients(method: str, shape: Shape, any_device: torch.device) -> None:
    cpu = torch.device("cpu")
    student = conv_student(shape, 4, cpu).float().to(any_device).train()
    batch = make_batch(shape, cpu, classes=4)
    inputs, labels, teacher_logits = (v.float() if v.is_floating_point() else v for v in batch)
    inputs[0], inputs[1] = 0.0, 1.0
    moved = Batch(inputs.to(any_device), labels.to(any_device), teacher_logits.to(any_device))
    loss = objective_of(method, student, moved)(moved.taught).loss
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
    batch = Batch(inputs.float(), labels, teacher_logits.float())
    loss = objective_of(method, student, batch)(batch.taught).loss
    assert loss.isfinite()
    assert_finite_gradients(loss, student)


@every_preset
def test_a_batch_of_one_works(method: str, smooth: nn.Module, device: torch.device) -> None:
    batch = make_batch(IMAGE, device, examples=1)
    loss = objective_of(method, smooth, batch)(batch.taught).loss
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
    loss = objective_of(method, student, batch)(batch.taught).loss
    with_gradient = {name.split(".")[0] for name, g in gradients_after(loss, student).items() if g is not None}
    assert with_gradient == {"body"}


RANDOM: dict[str, Values] = {
    "shared": {"secant": {"weight": 5.0}},
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
