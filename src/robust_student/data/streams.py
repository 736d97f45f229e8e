"""Training data that is read as it is needed: what a stream owes the training loop."""

from abc import ABC, abstractmethod
from collections.abc import Iterator

from torch import Tensor

from robust_student.core.tensors import Shape


class Stream(ABC):
    """Training examples too many for memory or disk, in batches whose order depends on epoch and seed alone."""

    shape: Shape
    """Shape of one input."""
    length: int
    """Examples per epoch, over all processes."""

    def __len__(self) -> int:
        return self.length

    @abstractmethod
    def batches(
        self, *, epoch: int, batch_size: int, seed: int, skip: int = 0, rank: int = 0, world: int = 1
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield the `length // (batch_size * world)` batches of one process in one epoch.

        Each batch is inputs `(batch_size, *shape)` as uint8 (pixels, 255 meaning 1.0) or float32, labels
        `(batch_size,)` and numbers `(batch_size,)`, both int64. An example's number is its own: the same in every
        epoch, and no other example has it. No example comes twice in an epoch; a last smaller batch is dropped.

        Step t of `world` processes with batches of b is step t of one process with batches of `world * b`: process
        `rank` has the `rank`-th b examples of it. The order is a function of (epoch, seed).

        Args:
            epoch: from 1 on; each has its own order.
            batch_size: examples per batch and process.
            seed: of the order.
            skip: this many batches are left out at the start, without decoding them.
            rank: number of this process, from 0.
            world: number of processes.

        Raises UserError where the data cannot be read or hold fewer than `length` examples.
        """
