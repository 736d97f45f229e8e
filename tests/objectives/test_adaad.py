"""AdaAD against a step written out in the open, and through `distill` with every kind of teacher's scores."""

import copy
import math
from pathlib import Path

import pytest
import torch
from plain_objective import plain_ascent, plain_distillation, plain_divergence
from reference import NORMS, Setup, conv_student, gradients_after, make_batch, message_of, smooth_student
from torch import Tensor, nn
from toy_training import DATA, FAST, student_of, teacher

from robust_student.core.norms import Norm, NormName
from robust_student.core.tensors import UNIT_RANGE
from robust_student.data.augmentation import AugmentationSettings
from robust_student.objectives.adaad import AdaADMethod
from robust_student.objectives.batch import Batch
from robust_student.objectives.robust_student import RobustStudentObjective
from robust_student.training.settings import DistillSettings
from robust_student.training.train import distill

IMAGE = (2, 4, 4)
CPU = torch.device("cpu")


class Both(nn.Module):
    """Logits of student and teacher side by side, for an oracle whose ascent sees logits only."""

    def __init__(self, student: nn.Module, teacher: nn.Module) -> None:
        super().__init__()
        self.student, self.teacher = student, teacher

    def forward(self, points: Tensor) -> Tensor:
        return torch.cat([self.student(points), self.teacher(points)], dim=1)


def step_in_the_open(
    student: nn.Module, teacher: nn.Module, settings: AdaADMethod, setup: Setup, step: float
) -> Tensor:
    """The loss of one step: the clean pass, an ascent away from the teacher's own answers, the pass at its end."""
    batch = make_batch(IMAGE, CPU)._replace(teacher_logits=teacher(make_batch(IMAGE, CPU).inputs).detach())
    start = setup.threat.random(batch.inputs, torch.Generator().manual_seed(0))
    share, t = settings.adaad.share, settings.distillation.temperature
    clean = plain_distillation(student(batch.inputs), batch, settings.distillation).mean() if share < 1 else 0.0
    searched = copy.deepcopy(student)
    searched.train(settings.gradient_mode == "train")
    climbed = [lambda logits: plain_divergence(logits[:, :3], logits[:, 3:], t)] * settings.adaad.steps
    reached = plain_ascent(Both(searched, teacher), climbed, batch.inputs, start, setup, step)
    gap = plain_divergence(student(reached), teacher(reached).detach(), t)
    return share * gap.mean() + (1 - share) * clean


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("share", [1.0, 0.7])
@pytest.mark.parametrize(("steps", "relative"), [(1, None), (3, 0.4)])
def test_a_step_is_the_step_computed_in_the_open(
    name: NormName, mode: str, share: float, steps: int, relative: float | None
) -> None:
    setup = Setup(Norm.named(name), UNIT_RANGE, {"l1": 2.0, "l2": 0.6, "linf": 0.1}[name])
    settings = AdaADMethod.parse(
        {
            "norm": name,
            "radius": setup.radius,
            "gradient_mode": mode,
            "distillation": {"temperature": 2.0, "soft_weight": 0.9},
            "adaad": {"share": share, "steps": steps, "step": relative},
        }
    )
    network, guide = conv_student(IMAGE, 3, CPU).train(), smooth_student(IMAGE, 3, CPU)
    with torch.no_grad():
        guide.get_submodule("1").get_parameter("weight").mul_(3.0)
    twin = copy.deepcopy(network)
    expected = step_in_the_open(twin, guide, settings, setup, (relative or 1.25) * setup.radius)
    inputs, labels, _ = make_batch(IMAGE, CPU)
    terms = RobustStudentObjective(network, settings)(
        Batch(inputs, labels, teacher=guide), torch.Generator().manual_seed(0)
    )
    assert set(terms.values) == ({"adaad"} if share == 1 else {"distillation", "adaad"})
    torch.testing.assert_close(terms.loss, expected)
    gradients = gradients_after(terms.loss, network)
    torch.testing.assert_close(gradients, gradients_after(expected, twin), atol=1e-9, rtol=1e-6)
    torch.testing.assert_close(dict(network.named_buffers()), dict(twin.named_buffers()))
    assert all(parameter.grad is None for parameter in guide.parameters())


@pytest.mark.parametrize(("share", "extra"), [(1.0, 1), (0.5, 2)])
def test_it_costs_the_documented_number_of_passes(share: float, extra: int) -> None:
    passes, asked = list[int](), list[int]()
    network, guide = smooth_student(IMAGE, 3, CPU), smooth_student(IMAGE, 3, CPU)
    network.register_forward_hook(lambda *_: passes.append(1))
    guide.register_forward_hook(lambda *_: asked.append(1))
    inputs, labels, teacher_logits = make_batch(IMAGE, CPU)
    objective = RobustStudentObjective(network, AdaADMethod.parse({"adaad": {"steps": 4, "share": share}}))
    objective(Batch(inputs, labels, teacher_logits=teacher_logits, teacher=guide))
    assert len(passes) == 4 + extra and len(asked) == 4 + 1


def test_it_needs_a_teacher_that_can_be_asked_and_has_the_students_classes() -> None:
    inputs, labels, teacher_logits = make_batch(IMAGE, CPU)
    objective = RobustStudentObjective(smooth_student(IMAGE, 3, CPU), AdaADMethod())
    assert "pass Batch(inputs, labels, teacher=teacher)" in message_of(
        lambda: objective(Batch(inputs, labels, teacher_logits=teacher_logits))
    )


@pytest.mark.parametrize("augmentation", [{}, {"flip": True, "crop": 1}, {"mixup": 0.5}], ids=str)
@pytest.mark.parametrize("share", [1.0, 0.5])
def test_a_student_learns_by_it_with_cached_and_with_fresh_scores(
    augmentation: dict[str, object], share: float
) -> None:
    training = FAST.model_copy(update={"epochs": 4, "augmentation": AugmentationSettings.model_validate(augmentation)})
    objective = AdaADMethod.parse({"adaad": {"share": share, "steps": 2}})
    guide = teacher()
    before = copy.deepcopy(guide.state_dict())
    trained = distill(guide, "mlp:8", DATA, DistillSettings(training=training, objective=objective))
    first, last = (record["terms"]["adaad"] for record in (trained.history[0], trained.history[-1]))
    assert last < first and trained.validation["clean"] > 1 / 3
    torch.testing.assert_close(guide.state_dict(), before, rtol=0, atol=0)
    assert all(parameter.grad is None and parameter.requires_grad for parameter in guide.network.parameters())


@pytest.mark.parametrize("flip", [False, True])
def test_the_teacher_is_asked_at_the_inputs_only_where_its_answers_there_are_used(
    flip: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without augmentation once for all, which are then kept; with it once a step."""
    monkeypatch.setenv("ROBUST_STUDENT_CACHE", str(tmp_path))
    training = FAST.model_copy(update={"epochs": 1, "augmentation": AugmentationSettings(flip=flip)})
    asked = list[int]()
    for share in (1.0, 0.5):
        guide, count = teacher(), list[int]()
        guide.network.register_forward_hook(lambda _, inputs, __, count=count: count.append(len(inputs[0])))
        objective = AdaADMethod.parse({"radius": 0.1, "adaad": {"share": share, "steps": 1}})
        distill(guide, "mlp:8", DATA, DistillSettings(training=training, objective=objective))
        asked.append(sum(count))
        assert len(list(tmp_path.glob("scores-*"))) == (share < 1 and not flip)
    steps, batch = 6, 8
    assert asked[1] - asked[0] == (steps * batch if flip else 54)


def test_the_methods_defaults_train() -> None:
    assert all(math.isfinite(record["terms"]["adaad"]) for record in student_of("adaad").history)
