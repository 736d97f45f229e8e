"""Settings that describe a teacher from elsewhere."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator, model_validator

from robust_student.core.settings import Settings
from robust_student.runtime.hardware import LARGEST_INPUT


class PreprocessingSettings(Settings):
    """Inputs and class names of a teacher that was trained elsewhere. A run directory needs none of these."""

    teacher_weights: Path | None = None
    """File of the teacher's weights (.safetensors, or a state_dict of torch.save); the same as @FILE after its name."""
    teacher_mean: tuple[float, ...] | None = None
    """Mean that the teacher's normalisation subtracts, in the data's own units such as pixels in [0, 1]: one value, or
    one per channel; None: what comes with its weights, else 0."""
    teacher_std: tuple[float, ...] | None = None
    """Standard deviation by which it then divides; None: what comes with its weights, else 1."""
    teacher_input_size: tuple[Annotated[int, Field(ge=1)], ...] | None = Field(None, min_length=1, max_length=2)
    """Side, or height and width, to which the teacher resizes its images; None: what comes with pretrained weights,
    else the data's size."""
    teacher_classes: Path | None = None
    """Text file of class names, one per line, in the order of the teacher's logits; None: those it comes with."""

    @model_validator(mode="after")
    def _both_of_a_normalisation(self) -> "PreprocessingSettings":
        if (self.teacher_mean is None) != (self.teacher_std is None):
            raise ValueError("teacher_mean and teacher_std go together")
        return self

    @field_validator("teacher_input_size")
    @classmethod
    def _not_beyond_reason(cls, size: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if size is not None and size[0] * size[-1] > LARGEST_INPUT // 3:
            raise ValueError(f"teacher_input_size has more than {LARGEST_INPUT // 3:,} pixels")
        return size


class TeacherSettings(PreprocessingSettings):
    """How a teacher is opened, and which accuracy it must have on validation examples before training starts."""

    teacher_accuracy: float | None = Field(None, gt=1, le=100)
    """Expected accuracy of the teacher in percent. Much less on validation is an error; None: unknown."""
    teacher_check: bool = True
    """Refuse a teacher that is no better than chance on validation, or worse than --teacher-accuracy."""
