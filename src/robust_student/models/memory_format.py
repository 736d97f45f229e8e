"""The order in memory in which convolutions run fastest."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def channels_last(networks: Iterable[nn.Module], inputs: Tensor) -> Iterator[None]:
    """Convolutions keep the channels of a pixel side by side for the length of a block, where they can; CPU only.

    Without gradients convolutions run up to 1.7 times as fast, attacks up to 1.35 times; numbers differ by rounding. A
    network that cannot be run and differentiated on `inputs` like this (one that reshapes with `view`) is left alone.
    """
    changed = [network for network in networks if inputs.device.type == "cpu" and _changes(network, inputs)]
    try:
        yield
    finally:
        for network in changed:
            _to(network, torch.contiguous_format)


def _changes(network: nn.Module, inputs: Tensor) -> bool:
    kernels = [module.weight for module in network.modules() if isinstance(module, nn.Conv2d)]
    if not kernels or not all(tensor.is_contiguous() for tensor in network.state_dict().values()):
        return False
    _to(network, torch.channels_last)
    try:
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            tried = inputs.detach().clone().requires_grad_(True)
            torch.autograd.grad(network(tried).sum(), tried)
    except RuntimeError:
        _to(network, torch.contiguous_format)
        return False
    return True


def _to(network: nn.Module, layout: torch.memory_format) -> None:
    network.to(memory_format=layout)  # type: ignore[call-overload]  # documented, missing in the annotations
