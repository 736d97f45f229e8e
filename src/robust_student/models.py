"""Networks by name, a user's own factory, and the wrapper that keeps normalisation inside the model."""

import importlib
import importlib.util
import inspect
import math
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations
from torch.utils.flop_counter import FlopCounterMode

from robust_student.limits import require_buildable, require_memory
from robust_student.settings import nearest
from robust_student.tensors import UserError, device_of, evaluating

Shape = tuple[int, ...]


class Residual(nn.Module):
    """Two 3x3 convolutions around a shortcut (He et al. 2015, figure 2), shortcut of option A."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        """Build the block."""
        super().__init__()
        self.first = _conv_block(channels_in, channels_out, stride)
        self.second = nn.Sequential(
            nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False), nn.BatchNorm2d(channels_out)
        )
        self.stride, self.extra = stride, channels_out - channels_in

    def forward(self, inputs: Tensor) -> Tensor:
        """ReLU(F(x) + shortcut(x))."""
        shortcut = functional.pad(inputs[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.extra))
        return functional.relu(self.second(self.first(inputs)) + shortcut)


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


def cnn(shape: Shape, classes: int, width: int = 16) -> nn.Module:
    """Three convolutions of width, 2 width and 4 width channels (ReLU, max pooling) and a linear layer; no BatchNorm.

    The first is 5x5 with stride 2, or 3x3 with stride 1 on images of at most 16 pixels; the others are 3x3 and followed
    by 2x2 pooling. Averages of at most 4x4 positions reach the linear layer. `cnn:8` has width 8 (8,906 parameters
    on 28x28 grey images with ten classes).
    """
    _require_image(shape, "cnn")
    if min(shape[1:]) < 4:
        raise UserError(f"model 'cnn': needs images of at least 4x4 pixels, not {shape[1]}x{shape[2]}")
    small = min(shape[1:]) <= 16
    stem = nn.Conv2d(shape[0], width, 3, padding=1) if small else nn.Conv2d(shape[0], width, 5, stride=2, padding=2)
    features = nn.Sequential(
        *(stem, nn.ReLU()),
        *(nn.Conv2d(width, 2 * width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(2 * width, 4 * width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
    )
    sides = [(side if small else (side + 1) // 2) // 4 for side in shape[1:]]
    grid = [min(4, side) for side in sides]
    layers: list[nn.Module] = [*features, nn.AdaptiveAvgPool2d((grid[0], grid[1]))] if grid != sides else [*features]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(4 * width * math.prod(grid), classes))


def convnet(shape: Shape, classes: int, width: int = 16) -> nn.Module:
    """Three blocks of 3x3 convolution, BatchNorm, ReLU and 2x2 max pooling, of width, 2 width and 4 width channels.

    Pooling stops when a side is down to one pixel. The plain ConvNet of few-shot studies (Gidaris & Komodakis 2018)
    with growing width; a linear layer reads the last block. `convnet:16` has 33,946 parameters on 32x32
    RGB images with ten classes.
    """
    _require_image(shape, "convnet")
    layers: list[nn.Module] = []
    height, length = shape[1:]
    for inputs, outputs in zip((shape[0], width, 2 * width), (width, 2 * width, 4 * width), strict=True):
        layers.append(_conv_block(inputs, outputs, 1))
        if min(height, length) > 1:
            layers.append(nn.MaxPool2d(2))
            height, length = height // 2, length // 2
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(4 * width * height * length, classes))


def resnet8(shape: Shape, classes: int, width: int = 16) -> nn.Module:
    """ResNet-8 for small images: one residual block per stage (He et al. 2015, section 4.2)."""
    return _resnet(shape, classes, 1, width)


def resnet20(shape: Shape, classes: int, width: int = 16) -> nn.Module:
    """ResNet-20 for small images: three residual blocks per stage (He et al. 2015, section 4.2)."""
    return _resnet(shape, classes, 3, width)


class Absolute(nn.Module):
    """|x|: an activation of slope 1 or -1 everywhere."""

    def forward(self, inputs: Tensor) -> Tensor:
        """|x|, element by element."""
        return inputs.abs()


class Scaled(nn.Module):
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
        layers += [parametrizations.orthogonal(weights, orthogonal_map="cayley", use_trivialization=False), Absolute()]
    return nn.Sequential(*layers[:-1], Scaled(8.0))


MOST_WIDTHS = 100
"""Numbers that may follow the name of a network."""
NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "linear": linear,
    "mlp": mlp,
    "cnn": cnn,
    "convnet": convnet,
    "resnet8": resnet8,
    "resnet20": resnet20,
    "lipschitz": lipschitz,
}
"""The built-in networks: `name` or `name:WIDTH[,WIDTH...]`."""


def build(spec: str, shape: Sequence[int], classes: int) -> nn.Module:
    """Build the network that `spec` names, for inputs of `shape` and that many classes.

    `spec` is a built-in name with optional widths (`cnn:8`, `mlp:64,64`), or `pkg.module:factory` or `file.py:factory`,
    a callable of the user's own that is called with `input_shape` and `num_classes` where it takes them. Raises
    UserError.
    """
    name, _, rest = spec.partition(":")
    if name in NETWORKS:
        if rest.count(",") >= MOST_WIDTHS:
            raise UserError(f"model '{name}': takes fewer numbers than {rest.count(',') + 1}")
        try:
            widths = [int(width) for width in rest.split(",")] if rest else []
            if any(width < 1 for width in widths):
                raise ValueError
        except ValueError:
            raise UserError(f"model '{spec}': widths are positive whole numbers, as in '{name}:16'") from None
        make = partial(NETWORKS[name], tuple(shape), classes, *widths)
        try:
            inspect.signature(NETWORKS[name]).bind(tuple(shape), classes, *widths)
        except TypeError:
            raise UserError(f"model '{spec}': takes fewer numbers than {len(widths)}") from None
        require_buildable(spec, make)
        return make()
    if not rest:
        raise UserError(
            f"model: unknown name '{spec}'"
            + nearest(name, list(NETWORKS))
            + " (or pkg.module:factory, file.py:factory)"
        )
    return _call_factory(spec, name, rest, tuple(shape), classes)


def check_network(network: nn.Module, spec: str, shape: Sequence[int], classes: int) -> None:
    """Raise UserError where a network does not map `(2, *shape)` to finite logits `(2, classes)`."""
    try:
        with torch.no_grad(), evaluating(network):
            output = network(torch.zeros(2, *shape, device=device_of(network)))
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"model '{spec}': fails on inputs of shape {tuple(shape)} ({reason})") from None
    if not isinstance(output, Tensor) or output.shape != (2, classes):
        found = f"shape {tuple(output.shape[1:])}" if isinstance(output, Tensor) else type(output).__name__
        raise UserError(f"model '{spec}': expected {classes} logits per example, got {found}")
    if not bool(output.isfinite().all()):
        raise UserError(f"model '{spec}': its weights give NaN or infinite logits on an all-zero input")


def count_parameters(network: nn.Module) -> int:
    """Number of parameters, frozen ones included."""
    return sum(parameter.numel() for parameter in network.parameters())


def count_macs(network: nn.Module, shape: Sequence[int]) -> int:
    """Multiply-accumulate operations of one forward pass on one input (convolutions and matrix products)."""
    with FlopCounterMode(display=False) as counter, torch.no_grad(), evaluating(network):
        network(torch.zeros(1, *shape, device=device_of(network)))
    return counter.get_total_flops() // 2


def _in_a_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _conv_block(channels_in: int, channels_out: int, stride: int) -> nn.Sequential:
    convolution = nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(channels_out), nn.ReLU())


def _resnet(shape: Shape, classes: int, blocks: int, width: int) -> nn.Module:
    _require_image(shape, "resnet")
    layers: list[nn.Module] = [_conv_block(shape[0], width, 1)]
    channels = width
    for stage in range(3):
        for block in range(blocks):
            layers.append(Residual(channels, width * 2**stage, 2 if stage > 0 and block == 0 else 1))
            channels = width * 2**stage
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


def _require_image(shape: Shape, name: str) -> None:
    if len(shape) != 3:
        raise UserError(f"model '{name}': needs images (channels, height, width), not inputs of shape {shape}; use mlp")


def _import(name: str) -> ModuleType:
    """A module by its dotted name, or from a file whose name ends in .py."""
    if not name.endswith(".py"):
        return importlib.import_module(name)
    path = Path(name)
    found = importlib.util.spec_from_file_location(path.stem, path)
    assert found is not None and found.loader is not None  # the suffix is .py
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def _call_factory(spec: str, module_name: str, factory_name: str, shape: Shape, classes: int) -> nn.Module:
    sys.path.insert(0, str(Path.cwd()))
    try:
        factory = getattr(_import(module_name), factory_name)
    except FileNotFoundError:
        raise UserError(f"model '{spec}': no file {module_name}") from None
    except ImportError as error:
        hint = nearest(module_name, list(NETWORKS)) if "." not in module_name else ""
        raise UserError(f"model '{spec}': cannot import module '{module_name}' ({error}){hint}") from None
    except AttributeError:
        raise UserError(f"model '{spec}': module '{module_name}' has no '{factory_name}'") from None
    except (Exception, SystemExit) as error:
        raise UserError(f"model '{spec}': cannot import module '{module_name}' ({_in_a_line(error)})") from None
    finally:
        sys.path.pop(0)
    offered = {"input_shape": shape, "num_classes": classes}
    try:
        accepted = inspect.signature(factory).parameters
        takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in accepted.values())
        network = factory(**{name: value for name, value in offered.items() if takes_any or name in accepted})
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        raise UserError(f"model '{spec}': the factory failed ({_in_a_line(error)})") from None
    if not isinstance(network, nn.Module):
        raise UserError(f"model '{spec}': the factory returned {type(network).__name__}, not a torch.nn.Module")
    return network
