"""How a network from elsewhere expects its inputs and names its classes: normalisation, input size, class names."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from robust_student.core.errors import UserError, require_file


@dataclass(frozen=True)
class Preprocessing:
    """Normalisation, input size and class names of a network; each is None where it is unknown."""

    mean: tuple[float, ...] | None = None
    """Subtracted from the inputs, one value per channel or feature, or a single one."""
    std: tuple[float, ...] | None = None
    """By which they are divided then."""
    size: tuple[int, int] | None = None
    """Height and width of the images that the network takes."""
    classes: tuple[str, ...] | None = None
    """Names in the order of the logits."""

    def over(self, other: "Preprocessing") -> "Preprocessing":
        """What this one knows, and what `other` knows where this one does not; mean and std go together."""
        normalised = self if self.mean is not None else other
        return Preprocessing(normalised.mean, normalised.std, self.size or other.size, self.classes or other.classes)

    def normalisation(self, shape: Sequence[int], who: str) -> tuple[Tensor, Tensor] | None:
        """Mean and standard deviation, `(channels, 1, 1)` for images and `(features,)` for tables; None: unknown.

        Three values over a grey image make it a colour image, each channel normalised for itself. Raises UserError
        where the numbers do not fit inputs of `shape`.
        """
        if self.mean is None or self.std is None:
            return None
        image = len(shape) == 3
        if len(self.mean) != len(self.std):
            raise UserError(f"{who}: {len(self.mean)} means but {len(self.std)} standard deviations; they go together")
        if min(self.std) <= 0:
            raise UserError(f"{who}: a standard deviation must be positive (got {min(self.std):g})")
        units = shape[0] if image else shape[-1]
        if len(self.mean) not in (1, units) and not (image and units == 1 and len(self.mean) == 3):
            complaint = f"{len(self.mean)} means for inputs of shape {tuple(shape)}"
            raise UserError(f"{who}: {complaint}; give one, or one per {'channel' if image else 'feature'}")
        form = (-1, 1, 1) if image else (-1,)
        return torch.tensor(self.mean).view(form), torch.tensor(self.std).view(form)


NATURAL_UNITS = Preprocessing((0.0,), (1.0,))
"""No normalisation."""

_NAMED = "list the data's names in the order of its logits (--teacher-classes FILE, where it is the teacher)"


def from_pretrained_cfg(config: Mapping[str, Any]) -> Preprocessing:
    """From timm's `pretrained_cfg`: mean, std, input_size and label_names."""
    size, names = config.get("input_size"), config.get("label_names")
    return Preprocessing(
        _numbers(config.get("mean")),
        _numbers(config.get("std")),
        None if size is None else (int(size[1]), int(size[2])),
        tuple(map(str, names)) if isinstance(names, list | tuple) else None,
    )


def from_config(config: Mapping[str, Any], preprocessor: Mapping[str, Any], who: str) -> Preprocessing:
    """From the `config.json` and `preprocessor_config.json` of a Hugging Face repository.

    Names come from `id2label` (or `label_names`, `classes`), normalisation from `image_mean` and `image_std` (or
    `mean`, `std`), the input size from `size` or `crop_size`; timm's layout says it in `pretrained_cfg`. Raises
    UserError where they are not what they should be.
    """
    try:
        names = config.get("id2label")
        if isinstance(names, dict):
            names = [names.get(str(k), names.get(k)) for k in range(len(names))]
        names = names or config.get("label_names") or config.get("classes")
        pixels = preprocessor if "image_mean" in preprocessor else {}
        size = preprocessor.get("crop_size") or preprocessor.get("size")
        preprocessing = Preprocessing(
            _numbers(pixels.get("image_mean", config.get("mean"))),
            _numbers(pixels.get("image_std", config.get("std"))),
            _side(size),
            None if not names or None in names else tuple(map(str, names)),
        )
        if "architecture" in config:  # timm's layout; older files have all in one place
            own = config.get("pretrained_cfg") or config
            if not isinstance(own, Mapping):
                raise TypeError("pretrained_cfg is no object")
            preprocessing = preprocessing.over(from_pretrained_cfg(own))
        return preprocessing
    except (TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
        raise UserError(f"{who}: its config.json or preprocessor_config.json is malformed ({error})") from None


def read_names(path: Path) -> tuple[str, ...]:
    """Class names from a text file, one a line, in the order of the logits; UserError where it cannot be read."""
    if path.exists():
        require_file(path, f"class names {path}: cannot read them")
    try:
        names = tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise UserError(f"class names {path}: cannot read them ({reason})") from None
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"class names {path}: '{twice}' appears twice")
    return names


def order_of(own: tuple[str, ...], data_classes: tuple[str, ...], who: str) -> tuple[int, ...] | None:
    """Where each wanted class is among a network's own, or None where the order is the same or cannot be known.

    Numbers (`7`, `LABEL_7`) are no names: nothing can be checked by them. Raises UserError where the number of
    classes differs, and where both have names that are not the same ones.
    """
    if len(own) != len(data_classes):
        raise UserError(f"{who}: has {len(own)} classes, the data has {len(data_classes)}")
    if own == data_classes or _unnamed(own) or _unnamed(data_classes):
        return None
    strange = other_names(own, data_classes)
    if strange is not None or len(set(own)) != len(own):
        raise UserError(f"{who}: {strange or f'two of its classes share a name; {_NAMED}'}")
    return tuple(own.index(name) for name in data_classes)


def other_names(own: Sequence[str], data_classes: Sequence[str]) -> str | None:
    """What is wrong where a network's classes are not called as the data's, and what to do; None where they are."""
    strange = [name for name in own if name not in data_classes]
    if not strange:
        return None
    new = [name for name in data_classes if name not in own]
    names = ", ".join(f"'{name}'" for name in new[:3]) + (", ..." if len(new) > 3 else "")
    return f"its class '{strange[0]}' is not among the data's, which has {names}; if only the names differ, {_NAMED}"


def _unnamed(names: Sequence[str]) -> bool:
    """Whether names are mere numbers."""
    return all(re.fullmatch(r"(LABEL_)?\d+", name) for name in names)


def _numbers(values: Any) -> tuple[float, ...] | None:
    return None if values is None else tuple(float(value) for value in values)


def _side(size: Any) -> tuple[int, int] | None:
    """Height and width from a number, `{height, width}` or `{shortest_edge}`."""
    if isinstance(size, dict):
        edge = size.get("shortest_edge")
        size = (size["height"], size["width"]) if edge is None else edge
    if size is None:
        return None
    return (int(size), int(size)) if isinstance(size, int) else (int(size[0]), int(size[1]))
