"""Every option of the objective changes the training step; no option is decoration."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robust_student.core.settings import Settings
from robust_student.objectives.batch import Batch
from robust_student.objectives.robust_student import RobustStudentObjective
from robust_student.objectives.settings import ObjectiveSettings

SLOPE = {"weight": 1.0, "form": "slope", "start": "inputs", "shared": False}
CHANGES: dict[str, tuple[dict[str, Any], Any]] = {
    "norm": ({"radius": 0.1, "secant": {"weight": 1.0}}, "l2"),
    "radius": ({"radius": 0.1, "secant": {"weight": 1.0}}, 0.2),
    "gradient_mode": ({"gradient": {"weight": 1.0}}, "eval"),
    "distillation.temperature": ({}, 2.0),
    "distillation.soft_weight": ({}, 0.5),
    "score.weight": ({}, 1.0),
    "score.form": ({"score": {"weight": 1.0, "score": "probability"}}, "teacher"),
    "score.score": ({"score": {"weight": 1.0}}, "probability"),
    "score.reduce": ({"score": {"weight": 1.0}}, "mean"),
    "score.slack": ({"score": {"weight": 1.0}}, -3.0),
    "gradient.weight": ({}, 1.0),
    "gradient.kind": ({"gradient": {"weight": 1.0}}, "direct"),
    "gradient.form": ({"gradient": {"weight": 1.0}}, "margin"),
    "gradient.score": ({"gradient": {"weight": 1.0}}, "logit"),
    "gradient.norm": ({"gradient": {"weight": 1.0}}, "l2"),
    "gradient.at": ({"gradient": {"weight": 1.0}}, "ball"),
    "gradient.target": ({"gradient": {"weight": 1.0, "kind": "direct"}}, 0.01),
    "gradient.projections": ({"norm": "l2", "gradient": {"weight": 1.0, "kind": "projection"}}, 3),
    "secant.weight": ({}, 1.0),
    "secant.form": ({"secant": {"weight": 1.0}}, "slope"),
    "secant.ascent": ({"secant": {"weight": 1.0}}, "drop"),
    "secant.score": ({"secant": SLOPE}, "probability"),
    "secant.steps": ({"secant": {"weight": 1.0}}, 2),
    "secant.step": ({"secant": {"weight": 1.0}}, 0.3),
    "secant.start": ({"secant": {"weight": 1.0, "shared": False}}, "inputs"),
    "secant.shared": ({"secant": {"weight": 1.0}}, False),
    "noise.share": ({}, 0.5),
    "noise.lowest_db": ({"noise": {"share": 1.0}}, 10.0),
    "noise.highest_db": ({"noise": {"share": 1.0}}, 10.0),
    "certified.weight": ({}, 1.0),
    "certified.form": ({"certified": {"weight": 1.0}}, "slope"),
    "certified.warmup": ({"certified": {"weight": 1.0}}, 1.0),
    "certified.ramp": ({"certified": {"weight": 1.0}}, 1.0),
}
"""Option -> (settings in which it matters, a value other than the default)."""


def options(kind: type[Settings], prefix: str = "") -> Iterator[str]:
    for name, field in kind.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Settings):
            yield from options(field.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name


def with_option(settings: dict[str, Any], option: str, value: Any) -> dict[str, Any]:
    group, _, name = option.rpartition(".")
    if not group:
        return {**settings, name: value}
    return {**settings, group: {**settings.get(group, {}), name: value}}


def gradients(settings: dict[str, Any]) -> list[Tensor]:
    """Parameter gradients of one step on a fixed batch with fixed random draws."""
    torch.manual_seed(0)
    student = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.SiLU(), nn.Flatten(), nn.Linear(4 * 4 * 4, 5)
    ).train()
    inputs, labels, teacher = torch.rand(12, 1, 6, 6), torch.arange(12) % 5, 2 * torch.randn(12, 5)
    objective = RobustStudentObjective(student, ObjectiveSettings.parse(settings))
    loss = objective(Batch(inputs, labels, teacher_logits=teacher), torch.Generator().manual_seed(1)).loss
    torch.autograd.backward(loss)
    return [parameter.grad for parameter in student.parameters() if parameter.grad is not None]


def test_the_table_has_every_option() -> None:
    assert sorted(CHANGES) == sorted(options(ObjectiveSettings))


@pytest.mark.parametrize("option", list(CHANGES))
def test_the_option_changes_the_step(option: str) -> None:
    base, value = CHANGES[option]
    before, after = gradients(base), gradients(with_option(base, option, value))
    assert not all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
