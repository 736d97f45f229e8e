"""Mode, gradients, device, type and bytes of a network."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import chain

import safetensors.torch
import torch
from torch import Tensor, nn


def dtype_of(network: nn.Module) -> torch.dtype:
    """Floating type of a network's parameters and buffers; the default one where it has none."""
    tensors = chain(network.parameters(), network.buffers())
    return next((tensor.dtype for tensor in tensors if tensor.is_floating_point()), torch.get_default_dtype())


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Evaluation mode for the length of a block; every module's own mode is restored."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """No parameter collects a gradient for the length of a block; each one's own setting is restored."""
    learning = [parameter for parameter in network.parameters() if parameter.requires_grad]
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)


def device_of(network: nn.Module) -> torch.device:
    """Device of a network's first parameter or buffer; the CPU when it has none."""
    first = next(chain(network.parameters(), network.buffers()), None)
    return torch.device("cpu") if first is None else first.device


def serialised(tensors: Mapping[str, Tensor]) -> bytes:
    """The tensors of a state dict in safetensors format, in memory."""
    return safetensors.torch.save({name: each.detach().cpu().contiguous().clone() for name, each in tensors.items()})
