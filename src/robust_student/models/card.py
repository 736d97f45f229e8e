"""What a model's file says about it."""

import math
from typing import Annotated, Any

import torch
from pydantic import Field, model_validator

from robust_student.core.settings import Settings
from robust_student.core.tensors import InputRange
from robust_student.data.examples import unshowable
from robust_student.models.familiarity import Familiarity
from robust_student.runtime.hardware import LARGEST_INPUT

_MODEL_SCHEMA = 1
"""Version of the format of model.json."""


class ModelCard(Settings):
    """What `model.json` says: how to rebuild the network and what its inputs and outputs mean."""

    schema_version: int = Field(_MODEL_SCHEMA, ge=1, le=_MODEL_SCHEMA)
    """Version of this format."""
    network: str | None
    """Name by which `models.build` makes the network; None where only Python code can."""
    input_shape: tuple[Annotated[int, Field(ge=1)], ...] = Field(min_length=1)
    """Shape of one input."""
    network_size: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] | None = None
    """Height and width to which images are resized for the network; null: they keep their size."""
    classes: tuple[str, ...] = Field(min_length=2)
    """Class names in the order of the logits."""
    order: tuple[int, ...] | None = None
    """Which of the network's own outputs is the logit of each class; null: in order."""
    input_range: tuple[float | None, float | None] = (0.0, 1.0)
    """Smallest and largest valid input value; null: no limit."""
    accuracy: float | None = Field(None, gt=1, le=100)
    """Accuracy in percent that is declared; checked on validation examples when the model teaches."""
    familiar: Familiarity | None = None
    """What tells inputs that are unlike the training set; null: nothing does."""
    sha256: str = ""
    """Checksum of model.safetensors, or of the weights of a model from elsewhere."""
    provenance: dict[str, Any] = {}
    """Version, git commit, seed, settings, hardware, data, time."""

    @model_validator(mode="after")
    def _values_are_possible(self) -> "ModelCard":
        if not self.range.lower < self.range.upper:
            raise ValueError(f"input_range must grow from low to high (got {list(self.input_range)})")
        if math.prod(self.input_shape) > LARGEST_INPUT:
            raise ValueError(f"input_shape has more than {LARGEST_INPUT:,} values")
        if unshowable(self.classes) is not None:
            raise ValueError(f"the class name {unshowable(self.classes)!r} holds characters that cannot be shown")
        return self

    @model_validator(mode="after")
    def _outside_fits_inside(self) -> "ModelCard":
        if self.network_size is not None and len(self.input_shape) != 3:
            raise ValueError(f"network_size needs images, not inputs of shape {list(self.input_shape)}")
        if self.network_size is not None and 3 * math.prod(self.network_size) > LARGEST_INPUT:
            raise ValueError(f"network_size has more than {LARGEST_INPUT // 3:,} pixels")
        if self.order is not None and sorted(self.order) != list(range(len(self.classes))):
            raise ValueError(f"order must name each of the {len(self.classes)} outputs once (got {list(self.order)})")
        return self

    @property
    def range(self) -> InputRange:
        """The input range with infinite ends where there is no limit."""
        lower, upper = self.input_range
        return InputRange(-torch.inf if lower is None else lower, torch.inf if upper is None else upper)
