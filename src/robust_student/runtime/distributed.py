"""The processes of one run, started by torchrun: which one this is, and what they tell each other.

Every function also serves the ordinary case of a single process, in which it costs nothing.
"""

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, distributed

from robust_student.core.errors import UserError


@contextmanager
def process_group(device: str) -> Iterator[None]:
    """Join the other processes of a `torchrun` for the length of a block; nothing where there are none.

    NCCL where the device is CUDA, gloo otherwise.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or distributed.is_initialized():
        yield
        return
    on_gpu = torch.cuda.is_available() and (device == "auto" or device.startswith("cuda"))
    if on_gpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    # A thread of gloo that holds a tensor when the interpreter ends aborts the process, so nothing may keep the group.
    # The functions of this module, which torch.export imports, keep the group of the moment of import as a default.
    import_module("torch.distributed.nn.functional")
    distributed.init_process_group("nccl" if on_gpu else "gloo")
    if rank() > 0:  # what is only information is said once
        logging.getLogger("robust_student").setLevel(logging.WARNING)
    try:
        yield
    finally:
        if "torch.distributed.tensor" in sys.modules:
            _forget_meshes()
        distributed.destroy_process_group()


def _forget_meshes() -> None:
    """Empty the caches in which operations on sharded tensors keep the mesh of devices, and so the group."""
    with suppress(ImportError, AttributeError):  # an own cache of PyTorch's, which may move
        import_module("torch.distributed.tensor.debug")._clear_sharding_prop_cache()


def rank() -> int:
    """Number of this process, from 0."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def size() -> int:
    """How many processes there are."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def size_here() -> int:
    """How many of the processes are on this machine, as torchrun says."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", size())) if size() > 1 else 1


def all_reduce_sum(values: Tensor) -> Tensor:
    """The sum of the processes' values, element by element."""
    if size() > 1:
        distributed.all_reduce(values)
    return values


def all_reduce_max(values: Tensor) -> Tensor:
    """The largest of the processes' values, element by element."""
    if size() > 1:
        distributed.all_reduce(values, distributed.ReduceOp.MAX)
    return values


def broadcast(condition: bool) -> bool:
    """Whether the condition holds in the first process, by whose clock all of them go."""
    if size() == 1:
        return condition
    answer = torch.tensor([int(condition)], device=_device())
    distributed.broadcast(answer, 0)
    return bool(answer.item())


def barrier() -> None:
    """Until all processes are here."""
    if size() > 1:
        distributed.barrier()


def all_gather(own_part: Tensor) -> Tensor:
    """The processes' tensors, all of one shape, one after the other along the first dimension."""
    if size() == 1:
        return own_part
    parts = [torch.empty_like(own_part) for _ in range(size())]
    distributed.all_gather(parts, own_part.contiguous())
    return torch.cat(parts)


def _device() -> torch.device:
    """Where small tensors must be for the processes to exchange them."""
    nccl = distributed.get_backend() == "nccl"
    return torch.device("cuda", torch.cuda.current_device()) if nccl else torch.device("cpu")


def rank_zero(job: Callable[[], Any]) -> Any:
    """What `job` returns in the first process, in all of them; its UserError too.

    For all that must be done once: only the first process writes. The result must be plain values or None.
    """
    if size() == 1:
        return job()
    outcome: list[Any] = [None, None]
    if rank() == 0:
        try:
            outcome[0] = job()
        except UserError as error:
            outcome[1] = str(error)
    distributed.broadcast_object_list(outcome)
    if outcome[1] is not None:
        raise UserError(outcome[1])
    return outcome[0]
