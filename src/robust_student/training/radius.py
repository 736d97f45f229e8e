"""The radius that a training takes where nobody names one: from the data and the teacher."""

import math
from dataclasses import dataclass

import torch

from robust_student.bounds.estimated import estimated_decision_radius
from robust_student.core.module_state import device_of, evaluating, frozen
from robust_student.core.tensors import UNIT_RANGE
from robust_student.core.threat_model import ThreatModel
from robust_student.data.examples import Examples
from robust_student.data.samples import stratified_sample
from robust_student.models.model import Model

_EXAMPLES = 500
_BATCH = 100
_FACTOR = 1.5
"""Of the median: chosen on the validation sets of docs/objectives.md."""
_RIVALS = 5
"""Rival classes of smallest margin among which the nearest is looked for."""


@dataclass(frozen=True)
class FittedRadius:
    """A radius R, and how it was found."""

    radius: float
    """In units of the threat model's norm."""
    reason: str
    """A phrase for people."""

    def __str__(self) -> str:
        return f"{self.radius:.3g} ({self.reason})"


def fitted_radius(teacher: Model, validation: Examples, threat: ThreatModel) -> FittedRadius:
    """R = 1.5 times the median of the teacher's estimated decision radii on validation examples that it gets right.

    min_j m_j(x) / ||grad m_j(x)||_q to first order, in the norm of `threat`, on at most 500 examples (stratified), cut
    to the radius of `threat` times 4, and rounded to two digits. It is a scale of the data: more than half of the
    teacher's right answers do not survive a change of this size. The radius of `threat` itself is taken where the
    teacher has no estimate: no right answer, or no gradient with respect to its inputs.
    """
    count = min(_EXAMPLES, len(validation))
    sample = validation.subset(stratified_sample(validation.labels, count, seed=0))
    device = device_of(teacher)
    radii = []
    with evaluating(teacher), frozen(teacher), torch.enable_grad():
        for part in torch.split(torch.arange(count), _BATCH):
            inputs = sample.floats(part).to(device).requires_grad_()
            logits = teacher(inputs)
            if not logits.requires_grad:
                return FittedRadius(threat.budget, "customary: the teacher has no gradient with respect to its inputs")
            labels = sample.labels[part].to(device)
            radii.append(estimated_decision_radius(logits, inputs, labels, threat.norm, rivals=_RIVALS).detach())
    found = torch.cat(radii).double().cpu()
    found = found[(found > 0) & found.isfinite()]
    if not len(found):
        return FittedRadius(threat.budget, "customary: the teacher has no estimate of its own")
    fitted = min(_FACTOR * float(found.median()), 4 * threat.budget)
    return FittedRadius(
        float(f"{fitted:.2g}"),
        f"1.5 times the median of the teacher's estimated radii on {len(found)} validation examples",
    )


def in_grey_levels(radius: float, threat: ThreatModel) -> str:
    """R as a phrase: `0.0082 (2.1/255)` for Linf on inputs in [0, 1], else the number alone."""
    if threat.norm.p == math.inf and threat.norm.scale is None and threat.input_range == UNIT_RANGE:
        return f"{radius:.3g} ({255 * radius:.2g}/255)"
    return f"{radius:.3g}"
