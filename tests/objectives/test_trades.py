"""TRADES against a step written out in the open, and through `distill`."""

import copy
import math

import pytest
import torch
from plain_objective import plain_ascent, plain_distillation, plain_divergence
from reference import NORMS, Setup, conv_student, gradients_after, make_batch, smooth_student
from torch import Tensor, nn
from toy_training import student_of

from robust_student.core.norms import Norm, NormName
from robust_student.core.tensors import UNIT_RANGE
from robust_student.objectives.robust_student import RobustStudentObjective
from robust_student.objectives.trades import TradesMethod

IMAGE = (2, 4, 4)
CPU = torch.device("cpu")


def step_in_the_open(student: nn.Module, settings: TradesMethod, setup: Setup, step: float) -> Tensor:
    """The loss of one step: the clean pass, an ascent away from its answers, the pass at its end."""
    batch = make_batch(IMAGE, CPU)
    start = setup.threat.random(batch.inputs, torch.Generator().manual_seed(0))
    clean = student(batch.inputs)
    searched = copy.deepcopy(student)
    if settings.gradient_mode == "eval":
        searched.eval()
        target = searched(batch.inputs).detach()
    else:
        target = clean.detach()
    climbed = [lambda logits: plain_divergence(logits, target, 1.0)] * settings.trades.steps
    reached = plain_ascent(searched, climbed, batch.inputs, start, setup, step)
    gap = plain_divergence(student(reached), clean, 1.0)
    return plain_distillation(clean, batch, settings.distillation).mean() + settings.trades.weight * gap.mean()


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("student", [conv_student, smooth_student])
@pytest.mark.parametrize(("steps", "relative"), [(1, None), (3, 0.4)])
def test_a_step_is_the_step_computed_in_the_open(
    name: NormName, mode: str, student: type[nn.Module], steps: int, relative: float | None
) -> None:
    setup = Setup(Norm.named(name), UNIT_RANGE, {"l1": 2.0, "l2": 0.6, "linf": 0.1}[name])
    settings = TradesMethod.parse(
        {
            "norm": name,
            "radius": setup.radius,
            "gradient_mode": mode,
            "distillation": {"temperature": 4.0, "soft_weight": 0.9},
            "trades": {"weight": 2.5, "steps": steps, "step": relative},
        }
    )
    network = student(IMAGE, 3, CPU).train()
    twin = copy.deepcopy(network)
    expected = step_in_the_open(twin, settings, setup, (relative or 1.25) * setup.radius)
    objective = RobustStudentObjective(network, settings)
    loss = objective(make_batch(IMAGE, CPU).taught, torch.Generator().manual_seed(0)).loss
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradients_after(loss, network), gradients_after(expected, twin), atol=1e-9, rtol=1e-6)
    torch.testing.assert_close(dict(network.named_buffers()), dict(twin.named_buffers()))


def test_it_costs_the_documented_number_of_passes() -> None:
    network, passes = smooth_student(IMAGE, 3, CPU), list[int]()
    network.register_forward_hook(lambda *_: passes.append(1))
    RobustStudentObjective(network, TradesMethod.parse({"trades": {"steps": 4}}))(make_batch(IMAGE, CPU).taught)
    assert len(passes) == 4 + 2


def test_a_student_learns_by_it() -> None:
    trained = student_of("trades", epochs=6)
    first, last = (record["terms"] for record in (trained.history[0], trained.history[-1]))
    assert last["distillation"] < first["distillation"] and math.isfinite(last["trades"])
    assert trained.validation["clean"] > 2 / 3  # of three classes
