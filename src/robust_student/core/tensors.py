"""Tensor shapes, parts of a batch and the range of valid inputs, for all folders."""

import math
from collections.abc import Iterator
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

Shape: TypeAlias = tuple[int, ...]
"""Sizes of one input or of one output, without the batch."""
Inputs: TypeAlias = Float[Tensor, "batch *shape"]
"""A batch of inputs of any shape, in the data's own units (pixels in [0, 1])."""
Images: TypeAlias = Float[Tensor, "batch channels height width"]
"""A batch of images of any size and number of channels."""
Pixels: TypeAlias = npt.NDArray[np.uint8]
"""Images as they are stored, of any shape."""
Logits: TypeAlias = Float[Tensor, "batch classes"]
"""One row of unnormalised scores per example."""
Labels: TypeAlias = Int64[Tensor, " batch"]
"""The class of each example."""
PerExample: TypeAlias = Float[Tensor, " batch"]
"""One number per example."""
Size: TypeAlias = float | PerExample
"""A size of perturbations: one for the whole batch, or one per example."""


class InputRange(NamedTuple):
    """The interval in which every element of a valid input lies; infinite ends mean "no limit"."""

    lower: float = 0.0
    upper: float = 1.0

    @property
    def width(self) -> float:
        """Length of the interval in input units; infinite when there is no limit."""
        return self.upper - self.lower

    @property
    def bounded(self) -> bool:
        """Whether both ends are finite."""
        return math.isfinite(self.lower) and math.isfinite(self.upper)

    def clip(self, inputs: Inputs) -> Inputs:
        """Move every element to the nearest value inside the range."""
        return inputs.clamp(self.lower, self.upper)


UNIT_RANGE = InputRange(0.0, 1.0)
"""Images with pixels in [0, 1]."""
UNBOUNDED = InputRange(-math.inf, math.inf)
"""Inputs without a limit, such as standardised features."""


def slices(count: int, size: int) -> Iterator[slice]:
    """Slices of at most `size` that cover `range(count)`."""
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


def column(values: Shaped[Tensor, " batch"], like: Tensor) -> Tensor:
    """Reshape `(batch,)` values to `(batch, 1, 1, ...)` so that they broadcast against `like`."""
    return values.view(-1, *[1] * (like.dim() - 1))


def broadcastable(size: Size, like: Tensor) -> float | Tensor:
    """A size that broadcasts against `like`: the number itself, or one per example reshaped and in its dtype."""
    return column(size.to(like), like) if isinstance(size, Tensor) else size


def answers(logits: Logits) -> Labels:
    """The class of the highest score of each example; -1, which is never right, where a score is NaN."""
    return logits.argmax(dim=1).masked_fill(logits.isnan().any(dim=1), -1)
