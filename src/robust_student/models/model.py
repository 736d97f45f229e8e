"""A model with all that is needed to use it, and the run directory that holds it: safetensors and JSON, no pickle."""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robust_student.core.errors import UserError
from robust_student.core.layer_outputs import features
from robust_student.core.module_state import device_of, evaluating, serialised
from robust_student.core.tensors import Shape
from robust_student.data.readers.load import Data
from robust_student.models.card import ModelCard
from robust_student.models.factories import code_digest
from robust_student.models.logits import logits_of
from robust_student.models.preprocessing import Preprocessing, order_of, other_names
from robust_student.models.registry import Recipe, build, check_network, names_code, read_recipe
from robust_student.models.resize import Resize

PROGRAM_SUFFIX = ".pt2"
"""Suffix of torch.export programs."""


class Model(nn.Module):
    """A network with its normalisation inside and its card: `model(inputs)` maps inputs in the data's units to logits.

    `S(resize((x - mean) / std))`: keeping the normalisation inside is what makes a radius mean "pixels in [0, 1]"
    (Cohen et al. 2019 do the same for the same reason). Where the card says so, images are resized for the network and
    its outputs put in the order of the classes. `history` and `search` hold the records of its training.
    """

    mean: Tensor
    std: Tensor
    order: Tensor | None

    def __init__(self, network: nn.Module, card: ModelCard, mean: Tensor, std: Tensor) -> None:
        """Wrap `network`; `mean` and `std` broadcast against one input (one value per channel for images).

        Three values over a grey image make it a colour image.
        """
        super().__init__()
        self.network, self.card = network, card
        self.history: list[dict[str, Any]] = []
        self.search: dict[str, Any] | None = None
        self.register_buffer("mean", mean.detach().clone().float())
        self.register_buffer("std", std.detach().clone().float())
        height_width = (card.input_shape[-2], card.input_shape[-1]) if card.network_size is not None else (0, 0)
        self.resize = Resize(height_width, card.network_size) if card.network_size is not None else None
        order = torch.tensor(card.order) if card.order is not None else None
        self.register_buffer("order", order, persistent=False)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits `(batch, classes)` of inputs in the data's units; UserError where the network returns none."""
        inputs = (inputs - self.mean) / self.std
        if self.resize is not None:
            inputs = self.resize(inputs)
        logits = logits_of(self.network(inputs), len(self.card.classes))
        if logits.dtype in (torch.float16, torch.bfloat16):
            logits = logits.to(inputs.dtype)  # of a network that rounds its outputs itself
        return logits if self.order is None else logits.index_select(1, self.order)

    def features(self, inputs: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        """Outputs of the network's named layers on inputs in the data's units, in the mode that the model is in.

        Names are those of `network.named_modules()`, such as "layer2" or "blocks.3". Raises UserError with the nearest
        name for an unknown one, and for a layer whose output is not a tensor or that takes no part.
        """
        return features(self, inputs, layers)

    def digest(self) -> str:
        """SHA-256 of the network's name and of all weights, normalisation included."""
        name = (self.card.network or type(self.network).__name__).encode()
        return hashlib.sha256(name + serialised(self.state_dict())).hexdigest()

    def code(self) -> str | None:
        """SHA-256 of the user's own code behind the network (`factories.code_digest`), or of its program's file.

        None where there is none. Weights alone do not tell what a network computes.
        """
        source = Path(str(self.card.provenance.get("source", "")))
        if source.suffix == PROGRAM_SUFFIX and source.is_file():
            return hashlib.sha256(source.read_bytes()).hexdigest()
        spec = self.card.network
        return code_digest(self.network, spec if spec is not None and names_code(spec) else None)

    @torch.no_grad()
    def logits(self, inputs: Tensor, batch: int = 1024) -> Tensor:
        """Logits in evaluation mode and bounded memory, on the CPU; the mode is restored."""
        with evaluating(self):
            return torch.cat([self(part.to(self.mean.device)).cpu() for part in torch.split(inputs, batch)])


def as_model(network: str | nn.Module, data: Data) -> Model:
    """`network` ready for `data`: built from its name to be trained, or a module that takes the data's units.

    Networks built by name get the training set's mean and standard deviation as normalisation, or what the weights
    that they start from expect; a module that is given is taken as it is. Raises UserError where it does not fit the
    data.
    """
    if isinstance(network, Model):
        require_fit(network, data)
        return network
    if isinstance(network, str):
        recipe = read_recipe(network)
        if recipe.arguments:
            raise UserError(f"model '{network}': a network to train must be built from its name, without a folder")
        beginning = replace(recipe, preprocessing=replace(recipe.preprocessing, classes=None))
        return assemble(beginning, lambda shape: build(network, shape, len(data.classes)), data, network)
    return assemble(None, lambda shape: network, data, type(network).__name__)


def assemble(
    recipe: Recipe | None, make: Callable[[Shape], nn.Module], data: Data, who: str, role: str = "model"
) -> Model:
    """A network in its wrapper, checked on a batch of zeros.

    Args:
        recipe: what it is and what it expects of its inputs; None for a module that only Python code can make.
        make: builds it for inputs of a shape.
        data: what it is for. Where nobody knows the normalisation, a network without weights gets the training set's.
        who: its name in errors.
        role: what it is, in errors about its fit to the data.
    """
    preprocessing = recipe.preprocessing if recipe is not None else Preprocessing()
    place = f"{role} '{who}'"
    statistics = preprocessing.normalisation(data.shape, place)
    if statistics is None:
        to_learn = recipe is not None and not recipe.has_weights
        statistics = data.statistics() if to_learn else (torch.zeros(1), torch.ones(1))
    if preprocessing.size is not None and len(data.shape) != 3:
        raise UserError(f"{place}: an input size needs images, not inputs of shape {data.shape}")
    lower, upper = data.input_range
    card = ModelCard(
        network=recipe.network if recipe is not None else None,
        input_shape=data.shape,
        network_size=None if preprocessing.size == data.shape[1:] else preprocessing.size,
        classes=data.classes,
        order=order_of(preprocessing.classes, data.classes, place) if preprocessing.classes is not None else None,
        input_range=(lower if math.isfinite(lower) else None, upper if math.isfinite(upper) else None),
    )
    shape = network_shape(card, *statistics)
    assert shape is not None  # the statistics were made for these inputs
    module = make(shape)
    model = Model(module, card, *statistics).to(device_of(module))
    check_network(model, who, data.shape, len(data.classes))
    return model


def network_shape(card: ModelCard, mean: Tensor, std: Tensor) -> Shape | None:
    """Shape of what reaches the network behind normalisation and resizing; None where mean or std do not fit.

    They may have more channels than the inputs have: three values over a grey image make it a colour image.
    """
    shape = card.input_shape
    for statistic in (mean, std):
        if statistic.dim() > len(shape):
            return None
        own = (1,) * (len(shape) - statistic.dim()) + tuple(statistic.shape)
        if shape[0] != 1 and own[0] not in (1, shape[0]):
            return None
        if any(length not in (1, side) for length, side in zip(own[1:], shape[1:], strict=True)):
            return None
        shape = (own[0] if shape[0] == 1 else shape[0], *shape[1:])
    return (shape[0], *card.network_size) if card.network_size is not None else shape


def require_fit(model: Model, data: Data, role: str = "model") -> None:
    """Raise UserError where a model and the data disagree on input shape, input range or classes."""
    card = model.card
    if card.input_shape != data.shape:
        raise UserError(f"{role}: takes inputs of shape {card.input_shape}, the data has {data.shape}")
    if len(card.classes) != len(data.classes):
        raise UserError(f"{role}: has {len(card.classes)} classes, the data has {len(data.classes)}")
    strange = other_names(card.classes, data.classes)
    if strange is not None:
        raise UserError(f"{role}: {strange}")
    if card.classes != data.classes:
        wrong = next(k for k in range(len(data.classes)) if card.classes[k] != data.classes[k])
        raise UserError(
            f"{role}: class {wrong} is '{card.classes[wrong]}', in the data it is '{data.classes[wrong]}': "
            "the class order differs"
        )
    if card.range != data.input_range:
        raise UserError(f"{role}: takes inputs in {tuple(card.range)}, the data lies in {tuple(data.input_range)}")
