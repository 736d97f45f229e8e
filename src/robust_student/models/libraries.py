"""Networks of timm and torchvision by name, their pretrained weights, and what those expect of their inputs."""

import difflib
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any, ClassVar

import yaml
from torch import nn

from robust_student.core.errors import UserError
from robust_student.core.extras import fix_for_torchvision, require
from robust_student.core.tensors import Shape
from robust_student.models.preprocessing import Preprocessing, from_pretrained_cfg
from robust_student.models.weights import fit_weights

_RESERVED = re.compile(
    r"pretrained\w*|weights\w*|checkpoint_path|cache_dir|num_classes|in_chans|features_only|progress|scriptable|exportable"
)
_TRANSFORMING = ("googlenet", "inception_v3")  # their weights were trained elsewhere and expect transform_input


@dataclass(frozen=True)
class LibraryNetwork(ABC):
    """A name in a library with its options: `timm:resnet10t,drop_rate=0.1,pretrained`."""

    library: ClassVar[str]
    """The library, as specs and Python name it."""
    size_option: ClassVar[str]
    """What the library calls the image size of networks that are built for one."""
    name: str
    options: tuple[tuple[str, str], ...] = ()
    """Keyword arguments of the library's constructor, as they were written."""
    pretrained: bool = False
    """Start from the library's own weights."""

    @staticmethod
    def parse(spec: str) -> "LibraryNetwork":
        """From `LIBRARY:NAME[,option=value...][,pretrained]`; raises UserError where that is not what it is."""
        library, _, rest = spec.partition(":")
        name, *words = rest.split(",")
        options = []
        for word in (word for word in words if word != "pretrained"):
            option, equals, value = word.partition("=")
            if not equals or not option.isidentifier():
                raise UserError(f"model '{spec}': '{word}' is not 'option=value' or 'pretrained'")
            if _RESERVED.fullmatch(option):
                raise UserError(f"model '{spec}': '{option}' is not set there; add 'pretrained', or @FILE for weights")
            options.append((option, value))
        architectures = _names(library)
        if name.partition(".")[0] not in architectures:
            close = difflib.get_close_matches(name, architectures, n=1, cutoff=0.5)
            hint = f"; did you mean '{close[0]}'?" if close else ""
            raise UserError(f"model '{spec}': {library} has no classifier '{name}'{hint}")
        return LIBRARIES[library](name, tuple(options), "pretrained" in words)

    @classmethod
    @abstractmethod
    def names(cls) -> list[str]:
        """The classifiers that the library can build."""

    @property
    def architecture(self) -> str:
        """The spec without weights: by it a saved student is built again, without a download."""
        name, options = self._without_weights()
        return ",".join([f"{self.library}:{name}", *(f"{option}={value}" for option, value in options.items())])

    @property
    @abstractmethod
    def trained_classes(self) -> int:
        """Number of classes that the library's own weights tell apart."""

    def preprocessing(self, weights: bool) -> Preprocessing:
        """What the network expects of its inputs when it has weights; from scratch only a size that it demands.

        Networks of a fixed size (vision transformers) expect that size. With the library's own weights so do all
        others; with weights from a file nobody knows, and images keep their size. The normalisation is that of the
        library's own weights of that name.
        """
        size = self._size()
        if not weights:
            return Preprocessing(size=size)
        own = self._pretrained_preprocessing()
        if not self.pretrained:
            own = Preprocessing(own.mean, own.std, own.size if self._fixed() else None)
        return Preprocessing(size=size).over(own)

    def build(self, shape: Shape, classes: int) -> nn.Module:
        """The network for inputs of `shape`; raises UserError, one line, where the library cannot make it."""
        if len(shape) != 3:
            raise UserError(f"model '{self.architecture}': needs images, not inputs of shape {shape}")
        try:
            return self._make(shape, classes, self._values())
        except UserError:
            raise
        except Exception as error:  # whatever a constructor of theirs, or a download, may raise
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            if self.pretrained:
                raise UserError(
                    f"model '{self.architecture}': no pretrained weights ({reason}); name a file: @FILE"
                ) from None
            raise UserError(f"model '{self.architecture}': {self.library} cannot build it ({reason})") from None

    @abstractmethod
    def _make(self, shape: Shape, classes: int, options: dict[str, Any]) -> nn.Module:
        """What the library builds; it may raise anything."""

    @abstractmethod
    def _fixed(self) -> bool:
        """Whether the network is built for one image size."""

    @abstractmethod
    def _pretrained_preprocessing(self) -> Preprocessing:
        """What the library's own weights expect."""

    @abstractmethod
    def _without_weights(self) -> tuple[str, dict[str, str]]:
        """Name and options of the architecture alone."""

    def _values(self) -> dict[str, Any]:
        """The options as numbers, words and truth values, but for the image size."""
        try:
            return {option: yaml.safe_load(value) for option, value in self.options if option != self.size_option}
        except yaml.YAMLError:
            raise UserError(f"model '{self.architecture}': an option's value is not a number or a word") from None

    def _size(self) -> tuple[int, int] | None:
        """(height, width) that the options name."""
        text = dict(self.options).get(self.size_option)
        if text is None:
            return None
        match = re.fullmatch(r"([1-9]\d*)(?:x([1-9]\d*))?", text)
        if match is None:
            raise UserError(f"model '{self.architecture}': {self.size_option} is a side in pixels, or HEIGHTxWIDTH")
        return int(match[1]), int(match[2] or match[1])


class TimmNetwork(LibraryNetwork):
    """A network of timm, whose names may end in the tag of their weights: `resnet10t.c3_in1k`."""

    library = "timm"
    size_option = "img_size"

    @classmethod
    def names(cls) -> list[str]:
        """The classifiers that timm can build."""
        return list(library_module("timm").list_models())

    @property
    def trained_classes(self) -> int:
        """Number of classes that timm's weights tell apart."""
        return int(self._pretrained_cfg()["num_classes"])

    def _make(self, shape: Shape, classes: int, options: dict[str, Any]) -> nn.Module:
        if self._fixed():
            options["img_size"] = shape[1:]
        make = library_module("timm").create_model
        return make(self.name, pretrained=self.pretrained, num_classes=classes, in_chans=shape[0], **options)

    def _fixed(self) -> bool:
        return bool(self._pretrained_cfg().get("fixed_input_size", False))

    def _pretrained_preprocessing(self) -> Preprocessing:
        return from_pretrained_cfg(self._pretrained_cfg())

    def _without_weights(self) -> tuple[str, dict[str, str]]:
        return self.name.partition(".")[0], dict(self.options)

    def _pretrained_cfg(self) -> dict[str, Any]:
        config = library_module("timm").get_pretrained_cfg(self.name)
        return {"num_classes": 1000} if config is None else config.to_dict()


class TorchvisionNetwork(LibraryNetwork):
    """A network of torchvision."""

    library = "torchvision"
    size_option = "image_size"

    @classmethod
    def names(cls) -> list[str]:
        """The classifiers that torchvision can build."""
        models = library_module("torchvision").models
        return list(models.list_models(module=models))

    @property
    def trained_classes(self) -> int:
        """Number of classes that torchvision's weights tell apart."""
        return len(self._weights().meta["categories"])

    def _make(self, shape: Shape, classes: int, options: dict[str, Any]) -> nn.Module:
        if self._fixed() and shape[1] == shape[2]:
            options["image_size"] = shape[1]
        if self.name in _TRANSFORMING:
            options.setdefault("init_weights", False)  # the default one takes half a minute
            options.setdefault("transform_input", self.pretrained)
        make = library_module("torchvision").models.get_model
        network: nn.Module = make(self.name, weights=None, num_classes=classes, **options)
        if shape[0] != 3:
            _replace_first_convolution(network, shape[0])
        if self.pretrained:
            state = self._weights().get_state_dict(progress=False, check_hash=True, weights_only=True)
            fit_weights(network, state, f"weights of {self.architecture}", new_classes=True)
        return network

    def _fixed(self) -> bool:
        return self.name.startswith("vit_")

    def _pretrained_preprocessing(self) -> Preprocessing:
        weights = self._weights()
        transforms = weights.transforms()
        sides = list(transforms.crop_size)
        size = (sides[0], sides[-1])
        return Preprocessing(tuple(transforms.mean), tuple(transforms.std), size, tuple(weights.meta["categories"]))

    def _without_weights(self) -> tuple[str, dict[str, str]]:
        options = dict(self.options)
        if self.pretrained and self.name in _TRANSFORMING:
            options.setdefault("transform_input", "true")
        return self.name, options

    def _weights(self) -> Any:
        return library_module("torchvision").models.get_model_weights(self.name).DEFAULT


LIBRARIES: dict[str, type[LibraryNetwork]] = {kind.library: kind for kind in (TimmNetwork, TorchvisionNetwork)}
"""Libraries whose networks are built by name."""


@cache
def library_module(name: str) -> ModuleType:
    """A library imported late; UserError that names the extra where it is missing or does not work."""
    try:
        return require(name, "vision", f"model '{name}:...'")
    except RuntimeError as error:  # torchvision's operators are missing or belong to another torch
        reason = str(error).splitlines()[0]
        complaint = f"model '{name}:...': torchvision does not fit this torch ({reason})"
        raise UserError(f"{complaint}; {fix_for_torchvision()}") from None


@cache
def _names(library: str) -> list[str]:
    return LIBRARIES[library].names()


def _replace_first_convolution(network: nn.Module, channels: int) -> None:
    """torchvision's networks take colour images only: a new first convolution for `channels`."""
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            assert module.in_channels == 3 and module.groups == 1
            first = nn.Conv2d(
                channels,
                module.out_channels,
                module.kernel_size,  # type: ignore[arg-type]
                module.stride,  # type: ignore[arg-type]
                module.padding,  # type: ignore[arg-type]
                module.dilation,  # type: ignore[arg-type]
                bias=module.bias is not None,
            )
            network.set_submodule(name, first)
            return
