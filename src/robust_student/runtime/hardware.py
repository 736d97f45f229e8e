"""What is too large for this machine: found from sizes alone, and refused before anything is allocated."""

import math
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch
from torch import nn

from robust_student.core.errors import UserError


def resolve_device(name: str) -> torch.device:
    """`auto`: CUDA, then MPS, then CPU; anything else as PyTorch names it. UserError where it is not available."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    choices = "auto, cpu, cuda, cuda:1 or mps"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"device '{name}': unknown; choose {choices}") from None
    if device.type == "meta":
        raise UserError(f"device '{name}': holds no values; choose {choices}")
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError, ValueError) as error:
        raise UserError(f"device '{name}': not available here ({str(error).splitlines()[0]})") from None
    return device


def usable_cores() -> int:
    """How many processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_LARGEST_NETWORK = 1_000_000_000
"""Parameters of the largest built-in network; they are for small images and small students."""
LARGEST_INPUT = 2**28
"""Values of the largest input that a model can take: 1 GB of floats."""
_CONTAINER = Path("/sys/fs/cgroup/memory.max")


def physical_memory() -> int | None:
    """Bytes of main memory that this process may use: the machine's, or its container's; None: unknown."""
    limits = []
    with suppress(AttributeError, ValueError, OSError):  # no such name on this system
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    with suppress(ValueError, OSError):  # no container, or one without a limit
        limits.append(int(_CONTAINER.read_text(encoding="ascii")))
    return min(limits, default=None)


def require_memory(needed: int, place: str, advice: str) -> None:
    """Raise UserError where what `place` names needs more bytes than there is memory; `advice` says what to do."""
    memory = physical_memory()
    if memory is not None and needed > memory:
        raise UserError(f"{place}: needs {readable(needed)} of memory, this machine has {readable(memory)}; {advice}")


def readable(size: int) -> str:
    """A number of bytes with a decimal unit, say 1.2 GB."""
    power = 0 if size < 1 else min(int(math.log10(size) // 3), 6)
    return f"{size / 1000**power:.3g} {('bytes', 'kB', 'MB', 'GB', 'TB', 'PB', 'EB')[power]}"


def require_buildable(spec: str, make: Callable[[], nn.Module]) -> None:
    """Raise UserError where `make` would build a network of more than _LARGEST_NETWORK parameters.

    It is built on PyTorch's meta device, where tensors have a shape and no memory.
    """
    try:
        with torch.device("meta"):
            count = sum(parameter.numel() for parameter in make().parameters())
    except (RuntimeError, TypeError, OverflowError) as error:
        if "overflow" not in str(error).lower():
            raise
        count = 2**63  # or more: a size is no 64-bit number
    if count > _LARGEST_NETWORK:
        size = f"{count:.2g}" if count < 2**63 else "countless"
        raise UserError(
            f"model '{spec}': would have {size} parameters, more than {_LARGEST_NETWORK:.0e}; choose smaller widths"
        )


def available_memory() -> int | None:
    """Bytes of main memory that are free now, on Linux; None elsewhere."""
    with suppress(OSError, ValueError):
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            name, _, value = line.partition(":")
            if name == "MemAvailable":
                return 1024 * int(value.split()[0])
    return None


def free_memory(device: torch.device) -> int | None:
    """Bytes that are free now on a device; None: unknown. Processes on one CPU share them."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    known = [size for size in (available_memory(), physical_memory()) if size is not None]
    return min(known, default=None) if device.type == "cpu" else None
