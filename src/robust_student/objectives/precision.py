"""How a network's ordinary training passes are run: in which precision, and compiled or not."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

Precision = Literal["fp32", "bf16"]


class ForwardPass:
    """Forward passes through one network for training it.

    With bf16 an ordinary pass runs under autocast and its logits come back in the inputs' type. A pass whose input
    gradient is wanted never does: slopes and ascent directions are small differences, for which eight bits of
    mantissa are too few.
    """

    def __init__(self, network: nn.Module, precision: Precision = "fp32", *, compiled: bool = False) -> None:
        """Passes through `network`; `compiled` hands it to torch.compile, which cannot be differentiated twice."""
        self.precision = precision
        self._run: Callable[[Tensor], Tensor] = network
        if compiled:
            self._run = torch.compile(network.__call__)

    def __call__(self, inputs: Tensor) -> Tensor:
        """Logits of an ordinary training pass."""
        if self.precision == "fp32":
            return self._run(inputs)
        with torch.autocast(inputs.device.type, torch.bfloat16):
            return self._run(inputs).to(inputs.dtype)

    def differentiable(self, inputs: Tensor) -> Tensor:
        """Logits of a pass whose gradient with respect to the inputs will be taken: in the inputs' own precision."""
        return self._run(inputs)
