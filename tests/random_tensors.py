"""Random and small tensors of tests about norms and threat models."""

import torch
from reference import norm_for
from reference_norm import ReferenceNorm
from torch import Tensor

from robust_student.core.norms import Norm, NormName
from robust_student.core.tensors import Shape

CPU = torch.device("cpu")


def normal(shape: Shape, device: torch.device, examples: int = 4, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((examples, *shape), generator=generator, dtype=torch.float64).to(device)


def inner(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).flatten(1).sum(dim=1)


def pair(name: NormName, scaled: bool, size: int) -> tuple[Norm, ReferenceNorm]:
    norm = norm_for(name, (size,), scaled, CPU)
    return norm, ReferenceNorm(norm, (size,))


def tensor(values: list[float]) -> Tensor:
    return torch.tensor([values], dtype=torch.float64)
