"""What a model costs: parameters, multiply-accumulates, bytes, milliseconds."""

import statistics
import time
from collections.abc import Iterable, Sequence

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from robust_student.core.module_state import device_of, evaluating, serialised
from robust_student.models.model import Model


def count_parameters(network: nn.Module) -> int:
    """Number of parameters, frozen ones included."""
    return sum(parameter.numel() for parameter in network.parameters())


def count_macs(network: nn.Module, shape: Sequence[int]) -> int:
    """Multiply-accumulate operations of one forward pass on one input (convolutions and matrix products)."""
    with FlopCounterMode(display=False) as counter, torch.no_grad(), evaluating(network):
        network(torch.zeros(1, *shape, device=device_of(network)))
    return counter.get_total_flops() // 2


def batch_macs(networks: Iterable[nn.Module], shape: Sequence[int], examples: int) -> int:
    """Multiply-accumulate operations of one forward pass of a batch through the largest of the networks."""
    return examples * max(count_macs(network, shape) for network in networks)


def costs(model: Model) -> dict[str, float | int]:
    """Parameters, MACs and median latency (ms) of one example, file size in bytes."""
    example = torch.zeros(1, *model.card.input_shape, device=model.mean.device)
    times = []
    with torch.no_grad():
        for _ in range(30):
            started = time.perf_counter()
            model(example).argmax().item()
            times.append(1000 * (time.perf_counter() - started))
    return {
        "parameters": count_parameters(model),
        "macs": count_macs(model, model.card.input_shape),
        "file_size": len(serialised(model.state_dict())),
        "latency": statistics.median(times),
    }
