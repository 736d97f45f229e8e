"""Gradient terms leave BatchNorm's statistics and every module's mode as plain distillation does."""

import copy

import pytest
import reference
import torch
from objective_steps import (
    EVAL,
    EXACT,
    GRADIENTS,
    Values,
    assert_identical,
    buffers_of,
    every_norm,
    labelled,
    parse,
    terms_of,
)
from plain_objective import plain_ascent, plain_divergence
from reference import Batch, Setup, assert_rows, gradients_after
from torch import Tensor, nn

from robust_student.core.norms import Norm, NormName
from robust_student.core.tensors import UNIT_RANGE
from robust_student.objectives.robust_student import RobustStudentObjective


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
    secant = {"weight": 1.0, "shared": False, "start": "inputs", "step": 1.0}
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
