"""The logits in whatever a network returns: a tensor, a tuple, a dictionary, a Hugging Face ModelOutput."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from robust_student.core.errors import UserError


def logits_of(output: Any, classes: int) -> Tensor:
    """The tensor that is the logits `(batch, classes)`.

    A tensor is taken as it is. Of anything else it is what is called `logits`, else the first tensor of that shape.
    Raises UserError where there is none.
    """
    if isinstance(output, Tensor):
        return output
    parts = list(_parts(output))
    for name, part in parts:
        if name == "logits" and isinstance(part, Tensor):
            return part
    for _, part in parts:
        if isinstance(part, Tensor) and part.dim() == 2 and part.shape[1] == classes:
            return part
    raise UserError(f"model: expected {classes} logits per example, got {type(output).__name__} without such a tensor")


def _parts(output: Any) -> Iterator[tuple[str, Any]]:
    """What a container holds, by name; ModelOutput is a mapping, torchvision's outputs are named tuples."""
    if isinstance(output, Mapping):
        yield from ((str(name), part) for name, part in output.items())
    elif isinstance(output, tuple) and hasattr(output, "_asdict"):
        yield from output._asdict().items()
    elif isinstance(output, Sequence) and not isinstance(output, str):
        yield from (("", part) for part in output)
    elif hasattr(output, "__dict__"):  # a dataclass or a plain object
        yield from vars(output).items()
