"""What a model costs: parameters, multiply-accumulates, bytes, milliseconds."""

import statistics
import time
from collections.abc import Mapping

import safetensors.torch
import torch
from torch import Tensor

from robust_student.models import count_macs, count_parameters
from robust_student.runs import Model


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


def serialised(tensors: Mapping[str, Tensor]) -> bytes:
    """The tensors in safetensors format, in memory."""
    return safetensors.torch.save({name: tensor.cpu().contiguous().clone() for name, tensor in tensors.items()})
