"""How many threads PyTorch computes with: one where the work is too small to share, else as many as it takes itself."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from robust_student.runtime.hardware import usable_cores

SMALL = 100_000_000
"""Multiply-accumulates of a forward pass below which a batch is computed on one thread: about 3 ms of one core."""
CHOICES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""Variables of the environment by which a user chooses the number of threads."""


@contextmanager
def threads_for(work: int | None) -> Iterator[None]:
    """Compute on one thread for the length of a block where `work` is small; afterwards all is as before.

    Threads meet after every operation, and where a core is busy with another program all of them wait for the one that
    it delays. The number of threads changes rounding, so it hangs on the work alone, never on a clock.

    Args:
        work: multiply-accumulates of one forward pass of a batch; None or 0: not known, nothing changes.

    Nothing changes either where the user has chosen: by OMP_NUM_THREADS or MKL_NUM_THREADS, or by a call of
    `torch.set_num_threads` with another number than PyTorch's own.
    """
    before = torch.get_num_threads()
    if not work or work >= SMALL or _chosen_by_user(before):
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _chosen_by_user(threads: int) -> bool:
    """Whether the number is not PyTorch's own: the cores, or half of them where each core counts as two."""
    cores = usable_cores()
    return any(os.environ.get(name) for name in CHOICES) or threads not in (cores, cores // 2)
