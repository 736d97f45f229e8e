"""What a trained model keeps to tell inputs that are unlike its training set."""

import torch

from robust_student.data.examples import Examples
from robust_student.models.familiarity import Familiarity
from robust_student.models.model import Model

_MOST, _BATCH = 10_000, 1_000
"""Validation examples that are asked for, evenly spread, and how many of them are in memory together."""


def familiar(model: Model, validation: Examples) -> Familiarity | None:
    """The threshold that validation examples give; None where the model has no answer to any."""
    count = min(_MOST, len(validation))
    positions = torch.arange(count) * len(validation) // count
    parts = [model.logits(validation.floats(part)) for part in torch.split(positions, _BATCH)]
    return Familiarity.of(torch.cat(parts))
