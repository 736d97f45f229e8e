"""What a network computes, by its answers to a probe: neither its weights nor the files of its own code tell all."""

from typing import TypeAlias

import torch
from torch import Tensor

from robust_student.models.model import Model

EXAMPLES, LOGITS = 16, 10
"""Inputs of a probe, and how many of each one's logits are kept."""
ALIKE = 0.01
"""Logits of an input are the same up to this share of its largest one: other kernels and devices round otherwise."""
ODD = 0.25
"""Share of the inputs that may differ all the same: rounding can turn a step inside a network."""

Answers: TypeAlias = list[list[float | None]]
"""The first logits of every input of a probe; None where one is not finite."""


def probe(model: Model) -> Answers | None:
    """The logits of fixed inputs; None where a network answers at random.

    They tell what a network computes, which neither its weights nor the files of its own code do where that code calls
    other code. The inputs are noise within the card's range, of growing amplitude. The random state stays as it is.
    """
    inputs = _inputs(model)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        first = _plain(model.logits(inputs))
        torch.manual_seed(0)
        return first if alike(first, _plain(model.logits(inputs))) else None


def probe_architecture(model: Model) -> Answers | None:
    """The same of a network that is to be trained, whatever its weights: fixed ones stand in for the length of it.

    None also where the network cannot compute with those.
    """
    state = model.state_dict()
    original = {name: tensor.clone() for name, tensor in state.items()}
    generator = torch.Generator().manual_seed(0)
    try:
        for name, tensor in state.items():
            if tensor.is_floating_point() and tensor.numel():
                tensor.copy_(_weights(name, torch.rand(tensor.shape, generator=generator)))
        return probe(model)
    except (RuntimeError, ValueError):
        return None
    finally:
        for name, tensor in state.items():
            tensor.copy_(original[name])


def _inputs(model: Model) -> Tensor:
    """Uniform noise around the middle of the range, or around the mean that the model subtracts."""
    card, generator = model.card, torch.Generator().manual_seed(0)
    noise = 2 * torch.rand((EXAMPLES, *card.input_shape), generator=generator) - 1
    amplitude = torch.linspace(1 / EXAMPLES, 1, EXAMPLES).view(-1, *[1] * len(card.input_shape))
    if card.range.bounded:
        return card.range.lower + card.range.width * (1 + amplitude * noise) / 2
    return card.range.clip(2 * amplitude * noise)


def _weights(name: str, numbers: Tensor) -> Tensor:
    """Numbers in [0, 1) turned into weights with which the signal neither dies out nor drowns in constants."""
    spread = 2 * numbers - 1
    if numbers.dim() > 1:
        return spread * (6 / numbers[0].numel()) ** 0.5  # He et al. 2015: as large behind a ReLU as before it
    return 0.1 * spread if name.endswith(("bias", "running_mean")) else 1 + 0.25 * spread  # gains and variances


def _plain(logits: Tensor) -> Answers:
    """Six digits of each."""
    rows = logits[:, :LOGITS].double()
    finite = rows.isfinite().tolist()
    return [
        [float(f"{value:.6g}") if is_finite else None for value, is_finite in zip(*row, strict=True)]
        for row in zip(rows.tolist(), finite, strict=True)
    ]


def alike(first: Answers, second: Answers) -> bool:
    """Whether most inputs have the same logits, up to rounding."""
    if len(first) != len(second):
        return False
    odd = sum(not _same(row, other_row) for row, other_row in zip(first, second, strict=True))
    return odd <= ODD * len(first)


def _same(first: list[float | None], second: list[float | None]) -> bool:
    if [value is None for value in first] != [value is None for value in second]:
        return False
    pairs = [(a, b) for a, b in zip(first, second, strict=True) if a is not None and b is not None]
    largest = max((max(abs(a), abs(b)) for a, b in pairs), default=0.0)
    return all(abs(a - b) <= ALIKE * largest for a, b in pairs)
