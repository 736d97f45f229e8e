"""The ways to run the student: in which precision, compiled or not, learning or only asked, as bounds of its layers."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

from robust_student.bounds.trace import Graph, trace
from robust_student.core.module_state import evaluating
from robust_student.core.tensors import Shape

Precision = Literal["fp32", "bf16"]


class ForwardPass:
    """Forward passes through one network for training it.

    With bf16 an ordinary pass runs under autocast and its logits come back in the inputs' type. A pass whose input
    gradient is wanted never does: slopes and ascent directions are small differences, for which eight bits of
    mantissa are too few.
    """

    def __init__(self, network: nn.Module, precision: Precision = "fp32", *, compiled: bool = False) -> None:
        """Passes through `network`; `compiled` hands it to torch.compile, which cannot be differentiated twice."""
        self.network, self.precision = network, precision
        self._run: Callable[[Tensor], Tensor] = network
        if compiled:
            self._run = torch.compile(network.__call__)
        self._graph: Graph | None = None

    def __call__(self, inputs: Tensor) -> Tensor:
        """Logits of an ordinary training pass."""
        if self.precision == "fp32":
            return self._run(inputs)
        with torch.autocast(inputs.device.type, torch.bfloat16):
            return self._run(inputs).to(inputs.dtype)

    def differentiable(self, inputs: Tensor) -> Tensor:
        """Logits of a pass whose gradient with respect to the inputs will be taken: in the inputs' own precision."""
        return self._run(inputs)

    def quiet(self, evaluation: bool) -> Callable[[Tensor], Tensor]:
        """The network as a function that leaves its buffers (BatchNorm statistics) and mode as they are.

        `evaluation` asks it in evaluation mode, else it is asked in the mode that it is in.
        """
        network = self.network
        buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}

        def run(points: Tensor) -> Tensor:
            with evaluating(network) if evaluation else nullcontext():
                return functional_call(network, buffers, (points,))

        return run

    def graph(self, shape: Shape) -> Graph:
        """The network's operations on inputs of this shape, traced once."""
        if self._graph is None:
            self._graph = trace(self.network, shape)
        return self._graph
