"""The radius that fits data and teacher: closed form on linear teachers, and what is done where there is none."""

import math

import pytest
import torch
from reference import affine, toy_data
from torch import Tensor, nn

from robust_student.core.norms import NormName
from robust_student.core.tensors import UNIT_RANGE
from robust_student.core.threat_model import ThreatModel
from robust_student.models.model import as_model
from robust_student.training.radius import fitted_radius, in_grey_levels

DATA = toy_data(train=60, noise=0.4)
WEIGHTS = torch.randn(3, 16, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_of_a_linear_teacher_it_is_one_and_a_half_times_the_median_of_the_exact_radii(norm: NormName) -> None:
    teacher = as_model(affine(WEIGHTS), DATA)
    threat = ThreatModel.named(norm, 100.0, UNIT_RANGE, DATA.shape)
    examples = DATA.training_examples
    exact = []
    order = {"linf": 1.0, "l2": 2.0, "l1": math.inf}[norm]
    for inputs, label in zip(examples.floats(), examples.labels.tolist(), strict=True):
        scores = WEIGHTS @ inputs.flatten()
        others = [k for k in range(3) if k != label]
        gaps = [float(scores[label] - scores[k]) for k in others]
        if min(gaps) > 0:
            slopes = [float(torch.linalg.vector_norm(WEIGHTS[label] - WEIGHTS[k], order)) for k in others]
            exact.append(min(gap / slope for gap, slope in zip(gaps, slopes, strict=True)))
    found = fitted_radius(teacher, examples, threat)
    assert len(exact) > 10 and f"on {len(exact)} validation examples" in found.reason
    assert found.radius == pytest.approx(1.5 * float(torch.tensor(exact).median()), rel=0.06)  # two digits


def test_it_is_at_most_four_times_the_customary_radius() -> None:
    threat = ThreatModel.named("linf", 1e-4, UNIT_RANGE, DATA.shape)
    assert fitted_radius(as_model(affine(WEIGHTS), DATA), DATA.training_examples, threat).radius == 4e-4


class Constant(nn.Module):
    """Answers class 0 whatever it sees, with a gradient of zero."""

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.eye(3)[torch.zeros(len(inputs), dtype=torch.long)] + 0.0 * inputs.flatten(1).sum(1, keepdim=True)


class Blind(nn.Module):
    """Its logits have no gradient."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.detach().flatten(1)[:, :3]


@pytest.mark.parametrize(("network", "why"), [(Constant(), "no estimate"), (Blind(), "no gradient")])
def test_without_an_estimate_it_is_the_customary_radius(network: nn.Module, why: str) -> None:
    threat = ThreatModel.named("linf", None, UNIT_RANGE, DATA.shape)
    found = fitted_radius(as_model(network, DATA), DATA.training_examples, threat)
    assert found.radius == threat.budget and found.reason.startswith("customary") and why in found.reason


def test_the_teacher_is_left_as_it_was() -> None:
    teacher = as_model(affine(WEIGHTS), DATA).train()
    fitted_radius(teacher, DATA.training_examples, ThreatModel.named("linf", None, UNIT_RANGE, DATA.shape))
    assert teacher.training and all(p.requires_grad and p.grad is None for p in teacher.parameters())


def test_grey_levels_are_named_where_inputs_have_them() -> None:
    assert in_grey_levels(8 / 255, ThreatModel.named("linf", 0.1, UNIT_RANGE, (3, 4, 4))) == "0.0314 (8/255)"
    assert in_grey_levels(0.5, ThreatModel.named("l2", 0.5, UNIT_RANGE, (3, 4, 4))) == "0.5"
