"""Where tensors live."""

import torch

from robust_student.core.errors import UserError


def resolve_device(name: str) -> torch.device:
    """`auto`: CUDA, then MPS, then CPU; anything else as PyTorch names it. UserError where it is not available."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    known = "auto, cpu, cuda, cuda:1 or mps"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"device '{name}': unknown; choose {known}") from None
    if device.type == "meta":
        raise UserError(f"device '{name}': holds no values; choose {known}")
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError, ValueError) as error:
        raise UserError(f"device '{name}': not available here ({str(error).splitlines()[0]})") from None
    return device
