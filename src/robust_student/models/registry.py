"""Networks by name: built-in ones, timm and torchvision, hub repositories, a user's own factory; what they cost."""

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robust_student.core.errors import UserError, nearest
from robust_student.core.module_state import device_of, evaluating
from robust_student.models.factories import call_factory
from robust_student.models.hub import CARD, folder_of, is_repository, is_run, read_repository
from robust_student.models.libraries import LIBRARIES, LibraryNetwork
from robust_student.models.networks.cnn import cnn, convnet
from robust_student.models.networks.fitnet import fitnet1, fitnet2, fitnet3, fitnet4, maxout
from robust_student.models.networks.mlp import linear, lipschitz, mlp
from robust_student.models.networks.mobilenet import mobilenetv2
from robust_student.models.networks.resnet import resnet8, resnet20, resnet32, resnet56, wrn
from robust_student.models.preprocessing import Preprocessing
from robust_student.models.weights import load_weights
from robust_student.runtime.hardware import require_buildable

_MOST_NUMBERS = 100
"""Numbers that may follow the name of a network."""
NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "linear": linear,
    "mlp": mlp,
    "lipschitz": lipschitz,
    "cnn": cnn,
    "convnet": convnet,
    "resnet8": resnet8,
    "resnet20": resnet20,
    "resnet32": resnet32,
    "resnet56": resnet56,
    "wrn": wrn,
    "mobilenetv2": mobilenetv2,
    "maxout": maxout,
    "fitnet1": fitnet1,
    "fitnet2": fitnet2,
    "fitnet3": fitnet3,
    "fitnet4": fitnet4,
}
"""The built-in networks: `name` or `name:NUMBER[,NUMBER...]`, numbers being widths where nothing else is said."""


@dataclass(frozen=True)
class Recipe:
    """What a model spec asks for: an architecture, and perhaps weights with what they expect of their inputs."""

    network: str
    """Spec of the architecture alone: nothing needs to be read or fetched to build it."""
    library: LibraryNetwork | None = None
    weights: Path | None = None
    """File of weights; library weights are in `library.pretrained`."""
    preprocessing: Preprocessing = Preprocessing()
    """What comes with the weights."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """More keyword arguments for a factory, from the config.json beside its weights."""

    @property
    def has_weights(self) -> bool:
        """Whether the network is more than its random start."""
        return self.weights is not None or (self.library is not None and self.library.pretrained)

    def build(self, shape: Sequence[int], classes: int) -> nn.Module:
        """The architecture for inputs of `shape`; a library's own pretrained weights are in it, a file's are not."""
        name, _, rest = self.network.partition(":")
        if self.library is not None:
            return self.library.build(tuple(shape), classes)
        if name not in NETWORKS:
            offered = {"input_shape": tuple(shape), "num_classes": classes, **self.arguments}
            hint = nearest(name, list(NETWORKS)) if "." not in name else ""
            return call_factory(self.network, offered, hint)
        if rest.count(",") >= _MOST_NUMBERS:
            raise UserError(f"model '{name}': takes fewer numbers than {rest.count(',') + 1}")
        try:
            numbers = [int(number) for number in rest.split(",")] if rest else []
            if any(number < 1 for number in numbers):
                raise ValueError
        except ValueError:
            raise UserError(f"model '{self.network}': widths are positive whole numbers, as in '{name}:16'") from None
        try:
            inspect.signature(NETWORKS[name]).bind(tuple(shape), classes, *numbers)
        except TypeError:
            raise UserError(f"model '{self.network}': takes fewer numbers than {len(numbers)}") from None
        make = partial(NETWORKS[name], tuple(shape), classes, *numbers)
        require_buildable(self.network, make)
        return make()


def read_recipe(spec: str) -> Recipe:
    """Understand a model spec; the network is not built yet. Raises UserError.

    `name[:NUMBER,...]`, `timm:NAME[,option=value...][,pretrained]`, `torchvision:NAME[...]`, `hub:USER/REPO`, a folder
    in the hub's layout, `pkg.module:factory` or `file.py:factory`; all but the folders may end in `@WEIGHTS`, a file,
    or for a factory a folder or `hub:USER/REPO` whose config.json holds more of the factory's arguments.
    """
    if spec.startswith("hub:") or is_repository(Path(spec)):
        return _from_repository(spec, folder_of(spec))
    if is_run(Path(spec)):
        raise UserError(f"model '{spec}': holds a run, not a network to train; name the network that its {CARD} names")
    name, at, weights = spec.partition("@")
    if at and not weights:
        raise UserError(f"model '{spec}': names no file of weights after '@'")
    kind, _, rest = name.partition(":")
    kind = _published(kind)
    if kind in NETWORKS:
        if kind == "wrn" and not rest:
            rest = ",".join(re.findall(r"\d+", name))
        recipe = Recipe(f"{kind}:{rest}" if rest else kind)
    elif kind in LIBRARIES and rest:
        library = LibraryNetwork.parse(name)
        preprocessing = library.preprocessing(weights=bool(weights) or library.pretrained)
        recipe = Recipe(library.architecture, library, preprocessing=preprocessing)
    elif rest:
        recipe = Recipe(name)
        if weights and (weights.startswith("hub:") or Path(weights).is_dir()):
            beside = read_repository(folder_of(weights))
            return replace(recipe, weights=beside.weights, preprocessing=beside.preprocessing, arguments=beside.config)
    else:
        others = "timm:NAME, torchvision:NAME, hub:USER/REPO, pkg.module:factory, file.py:factory"
        parts = re.fullmatch(r"([a-z_]+?)[-_]?(\d[\d,x]*)", name)
        meant = f"; did you mean '{parts[1]}:{parts[2]}'?" if parts and parts[1] in NETWORKS else None
        raise UserError(f"model: unknown name '{name}'{meant or nearest(name, list(NETWORKS))} (or {others})")
    return replace(recipe, weights=Path(weights)) if weights else recipe


def build(spec: str, shape: Sequence[int], classes: int) -> nn.Module:
    """Build the network of a spec (see `read_recipe`) for inputs of `shape` and that many classes, to be trained.

    Where the spec names weights it starts from them; a last layer for other classes is new. Raises UserError.
    """
    recipe = read_recipe(spec)
    network = recipe.build(shape, classes)
    if recipe.weights is not None:
        load_weights(network, recipe.weights, new_classes=True)
    return network


def rebuild(spec: str, shape: Sequence[int], classes: int) -> nn.Module:
    """The architecture that a saved card names; UserError where it names weights or a place to fetch them from."""
    if spec.startswith("hub:") or "@" in spec or is_repository(Path(spec)) or (recipe := read_recipe(spec)).has_weights:
        raise UserError(f"model '{spec}': is not the name of an architecture alone")
    return recipe.build(shape, classes)


def names_code(spec: str) -> bool:
    """Whether building the network that a spec names calls code that is neither ours nor a library's."""
    kind, _, rest = spec.partition(":")
    return bool(rest) and not is_built_in(spec) and kind not in (*LIBRARIES, "hub")


def is_built_in(spec: str) -> bool:
    """Whether a spec names a network of ours."""
    return _published(spec.partition("@")[0].partition(":")[0]) in NETWORKS


def check_network(network: nn.Module, spec: str, shape: Sequence[int], classes: int) -> None:
    """Raise UserError where a network does not map `(2, *shape)` to finite logits `(2, classes)`."""
    try:
        with torch.no_grad(), evaluating(network):
            output = network(torch.zeros(2, *shape, device=device_of(network)))
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError, AttributeError, KeyError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"model '{spec}': fails on inputs of shape {tuple(shape)} ({reason})") from None
    if not isinstance(output, Tensor) or output.shape != (2, classes):
        result = f"shape {tuple(output.shape[1:])}" if isinstance(output, Tensor) else type(output).__name__
        raise UserError(f"model '{spec}': expected {classes} logits per example, got {result}")
    if not bool(output.isfinite().all()):
        raise UserError(f"model '{spec}': its weights give NaN or infinite logits on an all-zero input")


def _published(name: str) -> str:
    """The built-in name of a network under its name in papers: resnet-20, FitNet-1, WRN-16-2."""
    plain = name.lower().replace("-", "")
    if re.fullmatch(r"wrn-\d+-\d+", name.lower()):
        return "wrn"
    return plain if plain in NETWORKS else name


def _from_repository(spec: str, folder: Path) -> Recipe:
    """The recipe of a folder in the hub's layout whose config.json names a network that can be built by name."""
    if (folder / CARD).is_file():
        raise UserError(f"model '{spec}': holds a run, not a network to train; name the network that its {CARD} names")
    repository = read_repository(folder)
    name = repository.network
    if name is None:
        raise UserError(
            f"model '{spec}': its config.json names no network (neither 'network' nor 'architecture'); "
            f"name its class: file.py:Class@{spec}"
        )
    if names_code(name) or "@" in name or name.startswith("hub:"):
        raise UserError(f"model '{spec}': its config.json names '{name}', not a built-in, timm or torchvision network")
    recipe = read_recipe(name)
    if recipe.has_weights:
        raise UserError(f"model '{spec}': its config.json asks for other weights than its own ('{name}')")
    return replace(
        recipe, weights=repository.weights, preprocessing=recipe.preprocessing.over(repository.preprocessing)
    )
