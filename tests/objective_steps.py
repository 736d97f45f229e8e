"""One call of the objective on a small batch, and settings that several of its test files use."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from reference import NORMS, Batch
from torch import Tensor, nn

from robust_student.core.margins import Score
from robust_student.core.tensors import Shape
from robust_student.objectives.batch import Terms
from robust_student.objectives.kept_perturbations import KeptPerturbations
from robust_student.objectives.methods import METHODS
from robust_student.objectives.robust_student import RobustStudentObjective
from robust_student.objectives.settings import ObjectiveSettings

IMAGE: Shape = (2, 4, 4)
Values = dict[str, Any]
every_norm = pytest.mark.parametrize("name", NORMS)
every_score = pytest.mark.parametrize("score", list(Score))
ON_LOGITS = sorted(name for name, s in METHODS.items() if not any(term.layers for term in s.terms()))
"""Methods that ask networks for logits only. Others name layers, which the networks of these tests do not have."""
every_preset = pytest.mark.parametrize("method", ON_LOGITS)
EXACT: Values = {"gradient": {"weight": 1.0}}
EVAL: Values = {"gradient_mode": "eval"}
GRADIENTS: dict[str, Values] = {
    "exact": EXACT,
    "exact in the ball": {"gradient": {"weight": 1.0, "at": "ball"}},
    "direct": {"gradient": {"weight": 1.0, "kind": "direct"}},
    "projection": {"norm": "l2", "gradient": {"weight": 1.0, "kind": "projection"}},
}


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


def objective_of(method: str, student: nn.Module, batch: Batch, **options: Any) -> RobustStudentObjective:
    """The objective of a method, with a memory for the batch where it keeps perturbations."""
    settings = METHODS[method]
    inputs = batch.inputs
    kept = KeptPerturbations(len(inputs), inputs.shape[1:], inputs.device) if settings.persistent else None
    return RobustStudentObjective(student, settings, kept=kept, **options)


def buffers_of(student: nn.Module) -> dict[str, Tensor]:
    return {name: buffer.clone() for name, buffer in student.named_buffers()}


def assert_identical(actual: Mapping[str, Tensor | None], expected: Mapping[str, Tensor | None]) -> None:
    """The same names, the same bits."""
    torch.testing.assert_close(actual, expected, rtol=0.0, atol=0.0)


def labelled(batch: Batch) -> list[tuple[Tensor, int]]:
    return list(zip(batch.inputs, batch.labels.tolist(), strict=True))
