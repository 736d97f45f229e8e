"""Networks of flat vectors: linear, multilayer perceptron, and one whose logits are Lipschitz by construction."""

import math

from torch import Tensor, nn
from torch.nn.utils import parametrizations

from robust_student.core.tensors import Shape
from robust_student.runtime.hardware import require_memory


def linear(shape: Shape, classes: int) -> nn.Module:
    """A linear classifier of the flattened input."""
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), classes))


def mlp(shape: Shape, classes: int, *widths: int) -> nn.Module:
    """A multilayer perceptron with ReLU; `mlp:64,32` has hidden layers of 64 and 32 units (default 64,64)."""
    sizes = [math.prod(shape), *(widths or (64, 64))]
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in zip(sizes[:-1], sizes[1:], strict=True):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], classes))


class _Absolute(nn.Module):
    """|x|: an activation of slope 1 or -1 everywhere."""

    def forward(self, inputs: Tensor) -> Tensor:
        """|x|, element by element."""
        return inputs.abs()


class _Scaled(nn.Module):
    """Multiplication by a constant."""

    def __init__(self, factor: float) -> None:
        """Keep the factor."""
        super().__init__()
        self.factor = factor

    def forward(self, inputs: Tensor) -> Tensor:
        """factor x."""
        return self.factor * inputs


def lipschitz(shape: Shape, classes: int, *widths: int) -> nn.Module:
    """A multilayer perceptron whose logits, divided by 8, are 1-Lipschitz in L2; widths as for mlp (default 64,64).

    Orthogonal weights (torch's own parametrisation) and absolute values (Anil, Lucas & Grosse 2019): S_y - S_j has a
    slope of at most 8 sqrt(2), so that certified Lipschitz radii are m / (8 sqrt(2)). The factor 8 lets cross-entropy
    see differences.
    """
    sizes = [math.prod(shape), *(widths or (64, 64)), classes]
    require_memory(16 * max(sizes) ** 2, "model 'lipschitz'", "choose mlp, smaller widths or smaller inputs")
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in zip(sizes[:-1], sizes[1:], strict=True):
        weights = nn.Linear(inputs, outputs)
        # Householder reflections, torch's default for matrices that are not square, do not train here.
        layers += [parametrizations.orthogonal(weights, orthogonal_map="cayley", use_trivialization=False), _Absolute()]
    return nn.Sequential(*layers[:-1], _Scaled(8.0))
