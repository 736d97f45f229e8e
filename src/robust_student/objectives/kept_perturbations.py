"""The perturbation that the last visit of each training example reached, at one byte an element."""

from typing import Any, BinaryIO

import numpy as np
import torch
from jaxtyping import Bool, Float, Int8
from torch import Tensor

from robust_student.core.errors import UserError
from robust_student.core.tensors import Inputs, Labels, Shape, column
from robust_student.runtime import distributed

_LEVELS = 127


class KeptPerturbations:
    """d of every training example, zero at first, as 8-bit integers in units of the example's largest element.

    d = s q / 127 with q in -127 ... 127 and s the largest |d| of the example, so an element is off by at most s / 254.
    Every process of a `torchrun` holds all of them and hears of the others' changes in each step: one byte an element
    and 13 bytes an example.
    """

    def __init__(
        self, count: int, shape: Shape, device: torch.device | str = "cpu", file: BinaryIO | None = None
    ) -> None:
        """For `count` examples of the given shape; `file`, of one zero byte an element, holds q where memory cannot."""
        self.file = file
        """The file that holds q; None: memory does."""
        if file is None:
            self.levels = torch.zeros((count, *shape), dtype=torch.int8, device=device)
        else:
            self.levels = torch.from_numpy(np.memmap(file, np.int8, mode="r+", shape=(count, *shape)))
        self.sizes = torch.zeros(count, device=device)

    def read(self, examples: Labels) -> Inputs:
        """d of these examples, on their device."""
        levels = self.levels[examples.to(self.levels.device)].to(examples.device)
        return levels * column(self.sizes[examples] / _LEVELS, levels)

    def write(self, examples: Labels, changes: Inputs, chosen: Bool[Tensor, " batch"] | None = None) -> None:
        """Replace d of these examples, or of the chosen ones among them, in all processes."""
        levels, sizes = _quantised(changes)
        chosen = torch.ones_like(sizes, dtype=torch.bool) if chosen is None else chosen
        levels, sizes, examples, chosen = _together(levels, sizes, examples, chosen)
        if not bool(chosen.all()):
            levels, sizes, examples = levels[chosen], sizes[chosen], examples[chosen]
        self.levels[examples.to(self.levels.device)] = levels.to(self.levels.device)
        self.sizes[examples] = sizes

    @property
    def files(self) -> dict[int, BinaryIO]:
        """The file that holds q, by the address of the tensor that is mapped from it; none where memory holds it."""
        return {} if self.file is None else {self.levels.data_ptr(): self.file}

    def state(self) -> dict[str, Tensor]:
        """All that a later `restore` needs."""
        return {"levels": self.levels, "sizes": self.sizes}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state; UserError where it is of other examples."""
        levels, sizes = state["levels"], state["sizes"]
        if levels.shape != self.levels.shape or levels.dtype != torch.int8 or sizes.shape != self.sizes.shape:
            raise UserError("checkpoint: its kept perturbations are those of other training examples")
        self.levels.copy_(levels)
        self.sizes.copy_(sizes)

    def go_back(self, state: dict[str, Any] | None) -> None:
        """To an earlier state, or to zero where there is none."""
        if state is None:
            self.sizes.zero_()
        else:
            self.restore(state)


def _quantised(changes: Inputs) -> tuple[Int8[Tensor, "batch *shape"], Float[Tensor, " batch"]]:
    """q and s of each example."""
    sizes = changes.flatten(1).abs().amax(dim=1).float()
    unit = _LEVELS / sizes.clamp_min(torch.finfo(sizes.dtype).tiny)
    return (changes * column(unit, changes)).round_().to(torch.int8), sizes


def _together(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The rows of all processes. Shares of a tiny training set can differ in size: rows of zeros fill them up."""
    if distributed.size() == 1:
        return tensors
    count = len(tensors[0])
    most = int(distributed.all_reduce_max(torch.tensor(count, device=tensors[0].device)))
    there = distributed.all_gather((torch.arange(most, device=tensors[0].device) < count)[None]).flatten()
    filled = (torch.cat([tensor, tensor.new_zeros((most - count, *tensor.shape[1:]))]) for tensor in tensors)
    return tuple(distributed.all_gather(tensor)[there] for tensor in filled)
