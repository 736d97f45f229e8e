"""Any model by its spec, ready to use: a run, a hub repository, a library's network, the user's code, a program."""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from robust_student.core.errors import UserError
from robust_student.core.tensors import Shape
from robust_student.data.readers.load import Data
from robust_student.models.card import ModelCard
from robust_student.models.exported import open_program
from robust_student.models.hub import CARD, folder_of, is_repository
from robust_student.models.model import PROGRAM_SUFFIX, Model, assemble, require_fit
from robust_student.models.preprocessing import NATURAL_UNITS, Preprocessing, order_of, read_names
from robust_student.models.registry import Recipe, is_built_in, names_code, read_recipe
from robust_student.models.run_directory import load
from robust_student.models.settings import PreprocessingSettings
from robust_student.models.weights import load_weights
from robust_student.runtime.files import read_json

_log = logging.getLogger(__name__)


def open_model(
    spec: str,
    data: Data | None = None,
    settings: PreprocessingSettings | None = None,
    *,
    trust: bool = False,
    role: str = "model",
) -> Model:
    """The model that `spec` names, with its weights, in evaluation mode on the CPU.

    Args:
        spec: a run directory; `hub:USER/REPO[@REVISION]` or a local folder in the hub's layout; `timm:NAME[,...]` or
            `torchvision:NAME[,...]`, with `,pretrained` or `@WEIGHTS`; a built-in name with `@WEIGHTS`;
            `pkg.module:factory[@WEIGHTS]` or `file.py:factory[@WEIGHTS]`, a factory without weights being called
            twice: it must load its own; a `.pt2` program of torch.export.
        data: what the model is for; only a run can be opened without, since it knows its inputs and classes.
        settings: normalisation, input size and class names where the spec's source does not know them.
        trust: the user's word that code in a program, or named by somebody else's run, may be called.
        role: what to call it in errors.

    The model takes the data's inputs in their own units: it normalises and resizes them itself. Its logits are in the
    order of the data's classes where both sides have the same names. Raises UserError.
    """
    settings = settings if settings is not None else PreprocessingSettings()
    folder = folder_of(spec) if spec.startswith("hub:") else Path(spec)
    if not _elsewhere(spec, folder):
        return _adapted(load(folder, trust=trust), spec, data, settings, role)
    if data is None:
        raise UserError(f"{role} '{spec}': only a run directory says what its inputs and classes are")
    if settings.teacher_weights is not None:
        if "@" in spec or folder.suffix == PROGRAM_SUFFIX or folder.is_dir():
            raise UserError(f"{role} '{spec}': comes with its weights; drop --teacher-weights")
        spec = f"{spec}@{settings.teacher_weights}"
    opened = _program if folder.suffix == PROGRAM_SUFFIX else _network
    model = opened(spec, data, _user_preprocessing(settings, data), trust, role)
    facts = {"sha256": _fingerprint(model), "provenance": {"source": spec}}
    model.card = model.card.model_copy(update=facts)
    return model.eval()


def expected_shape(specs: Sequence[str]) -> Shape | None:
    """Shape of the inputs of the first of the specs that is a run, to read data with; None where none is."""
    return next((card.input_shape for card in _cards(specs).values()), None)


def expected_group(specs: Sequence[str]) -> str | None:
    """What the first of the specs that is a run was trained with as `--group`, to split data alike; None: nothing.

    A line says so where the runs differ.
    """
    groups = {spec: card.provenance.get("group") for spec, card in _cards(specs).items()}
    chosen = next((group for group in groups.values() if isinstance(group, str)), None)
    other = next((spec for spec, group in groups.items() if group != chosen), None)
    if chosen is not None and other is not None:
        _log.warning(
            "group: '%s' is used, as in training, but '%s' was trained with %s: examples split off for testing may be "
            "among those that it has seen",
            chosen,
            other,
            "no groups" if groups[other] is None else f"'{groups[other]}'",
        )
    return chosen


def _cards(specs: Sequence[str]) -> dict[str, ModelCard]:
    """The cards of those of the specs that are runs."""
    cards = {}
    for spec in specs:
        path = (folder_of(spec) if spec.startswith("hub:") else Path(spec)) / CARD
        if path.is_file():
            cards[spec] = ModelCard.parse(read_json(path), str(path))
    return cards


def _elsewhere(spec: str, folder: Path) -> bool:
    """Whether a spec names something other than a run directory."""
    if folder.is_dir():
        return is_repository(folder)
    return ":" in spec or "@" in spec or folder.suffix == PROGRAM_SUFFIX or is_built_in(spec)


def _program(spec: str, data: Data, preprocessing: Preprocessing, trust: bool, role: str) -> Model:
    """A program of torch.export; images are resized to the size that it was exported for."""
    program = open_program(Path(spec), trust=trust)
    sides = program.shape[1:] if len(program.shape) == 3 else ()
    own = Preprocessing(size=(sides[0], sides[1]) if len(sides) == 2 and sides[0] and sides[1] else None)
    recipe = Recipe(spec, weights=Path(spec), preprocessing=preprocessing.over(own))
    model = assemble(recipe, lambda shape: program, data, spec, role)
    model.card = model.card.model_copy(update={"network": None})
    return model


def _network(spec: str, data: Data, user_preprocessing: Preprocessing, trust: bool, role: str) -> Model:
    """A network by name or from the user's code, with exactly the weights that the spec names."""
    recipe, classes = read_recipe(spec), len(data.classes)
    if not recipe.has_weights and not names_code(recipe.network):
        more = "pretrained or " if recipe.library is not None else ""
        raise UserError(f"{role} '{spec}': has no weights; add {more}@FILE, or name a run directory")
    if recipe.library is not None and recipe.library.pretrained and recipe.library.trained_classes != classes:
        raise UserError(
            f"{role} '{spec}': its weights are for {recipe.library.trained_classes} classes, the data has "
            f"{classes}; train it on the data first (train --model {spec})"
        )

    def make(shape: Shape) -> nn.Module:
        network = recipe.build(shape, classes)
        if recipe.weights is not None:
            load_weights(network, recipe.weights)
        return network

    preprocessing = user_preprocessing.over(recipe.preprocessing)
    if not recipe.has_weights:  # the factory's own, which take the data's units like a file's
        preprocessing = preprocessing.over(NATURAL_UNITS)
    recipe = replace(recipe, preprocessing=preprocessing)
    model = assemble(recipe, make, data, spec, role)
    if not recipe.has_weights and assemble(recipe, make, data, spec, role).digest() != model.digest():
        raise UserError(
            f"{role} '{spec}': has random weights: two calls of the factory give different ones; add @WEIGHTS (a "
            "file) or load weights in the factory"
        )
    if recipe.arguments:  # no name builds it again
        model.card = model.card.model_copy(update={"network": None})
    return model


def _fingerprint(model: Model) -> str:
    """Checksum of a model's weights and buffers by name, shape and type, and of what its card does with them."""
    digest = hashlib.sha256(f"{model.card.network_size} {model.card.order}".encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _user_preprocessing(settings: PreprocessingSettings, data: Data | None) -> Preprocessing:
    """What the user says about the network; None where nothing is said."""
    size, file = settings.teacher_input_size, settings.teacher_classes
    names = None if file is None else read_names(file)
    if names is not None and data is not None and len(names) != len(data.classes):
        raise UserError(f"class names {file}: {len(names)} names, the data has {len(data.classes)} classes")
    return Preprocessing(
        settings.teacher_mean,
        settings.teacher_std,
        None if size is None else (size[0], size[-1]),
        names,
    )


def _adapted(model: Model, spec: str, data: Data | None, settings: PreprocessingSettings, role: str) -> Model:
    """A run for data whose images have another size or whose classes come in another order."""
    preprocessing, card = _user_preprocessing(settings, data), model.card
    if preprocessing.mean is not None or settings.teacher_weights is not None:
        what = "--teacher-mean and --teacher-std" if preprocessing.mean is not None else "--teacher-weights"
        raise UserError(f"{role} '{spec}': is a run directory, which brings its own; drop {what}")
    if data is None:
        return model
    changes: dict[str, object] = {}
    if preprocessing.size is not None:
        if len(card.input_shape) != 3 or len(data.shape) != 3:
            raise UserError(f"{role} '{spec}': an input size needs images, not inputs of shape {data.shape}")
        changes = {"input_shape": (card.input_shape[0], *data.shape[1:]), "network_size": preprocessing.size}
    names = preprocessing.classes or card.classes
    same = set(names) == set(data.classes) and len(names) == len(data.classes)
    order = order_of(names, data.classes, f"{role} '{spec}'") if same or preprocessing.classes else None
    if order is not None:
        changes["order"] = order if card.order is None else tuple(card.order[k] for k in order)
    if order is not None or names != card.classes:
        changes["classes"] = data.classes
    if changes:
        mark = f"{card.sha256} {changes}".encode()
        changes["sha256"] = hashlib.sha256(mark).hexdigest()
        adapted = Model(model.network, ModelCard.parse(card.model_dump() | changes), model.mean, model.std)
        adapted.history, adapted.search = model.history, model.search
        model = adapted.eval()
    require_fit(model, data, role)
    return model
