"""A run on disk: written whole, checked on reading."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from robust_student.core.errors import UserError
from robust_student.core.module_state import serialised
from robust_student.models.card import ModelCard
from robust_student.models.factories import require_own
from robust_student.models.model import Model, network_shape
from robust_student.models.registry import names_code, rebuild
from robust_student.runtime.files import read_json, read_jsonl, require_writable, write_atomically, write_json

METRICS, SEARCH, TRAINING = "metrics.jsonl", "search.json", "training.json"
"""Records of training epochs and of a search for weights, beside the model; what an unfinished training is."""
PLAIN = "plain"
"""Folder of the plain student that a training compares its own student with."""
TRIES = "tries"
"""Folder of a search's candidates while they are trained."""


def save(model: Model, folder: Path) -> None:
    """Write `model.safetensors` and `model.json` into `folder`, each atomically."""
    content = serialised(model.state_dict())
    card = model.card.model_copy(update={"sha256": hashlib.sha256(content).hexdigest()})
    model.card = card
    write_atomically(folder / "model.safetensors", content)
    write_json(folder / "model.json", card.model_dump())


def load(
    run: str | Path, *, network: nn.Module | None = None, device: str | torch.device = "cpu", trust: bool = False
) -> Model:
    """The model of a run directory, in evaluation mode.

    Args:
        run: directory with `model.safetensors` and `model.json`.
        network: the network itself, where the card says that only Python code can build it.
        device: where to put it.
        trust: call the code that the card names even where it need not be your own (see `factories.require_own`).

    The checksum is verified, every weight must have the expected name and shape and be finite. Raises UserError.
    """
    folder = Path(run)
    card_path, weights_path = folder / "model.json", folder / "model.safetensors"
    if (folder / TRAINING).exists() and not card_path.exists():
        raise UserError(f"model {folder}: its training is unfinished; give the command that started it again")
    for path in (card_path, weights_path):
        if not path.is_file():
            raise UserError(f"model {folder}: no file {path.name} there (expected a run directory)")
    card = ModelCard.parse(read_json(card_path), str(card_path))
    content = weights_path.read_bytes()
    if card.sha256 and hashlib.sha256(content).hexdigest() != card.sha256:
        raise UserError(f"model {weights_path}: damaged (its checksum is not the one in model.json)")
    try:
        tensors = safetensors.torch.load(content)
    except safetensors.SafetensorError as error:
        raise UserError(f"model {weights_path}: not a valid safetensors file ({error})") from None
    if "mean" not in tensors or "std" not in tensors:
        raise UserError(f"model {weights_path}: no normalisation (mean, std) in it")
    for name in ("mean", "std"):
        _require_type(tensors, name, torch.float32, weights_path)
    shape = network_shape(card, tensors["mean"], tensors["std"])
    if shape is None:
        raise UserError(f"model {weights_path}: its mean or std does not fit inputs {card.input_shape}")
    if not bool((tensors["std"] > 0).all()):
        raise UserError(f"model {weights_path}: every 'std' must be positive")
    if network is None:
        if card.network is None:
            raise UserError(f"model {folder}: made from a module of your own; load it in Python with network=...")
        if names_code(card.network) and not trust:
            require_own(card.network, folder)
        try:
            network = rebuild(card.network, shape, len(card.classes))
        except UserError as error:
            raise UserError(f"file {card_path}: {error}") from None
    model = Model(network, card, tensors["mean"], tensors["std"])
    for name, expected in model.state_dict().items():
        _require_type(tensors, name, expected.dtype, weights_path)
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        reason = " ".join(str(error).split()).removeprefix("Error(s) in loading state_dict for Model: ")[:300]
        raise UserError(f"model {weights_path}: weights do not fit network '{card.network}' ({reason})") from None
    if (folder / METRICS).exists():
        model.history = read_jsonl(folder / METRICS)
    if (folder / SEARCH).exists():
        model.search = read_json(folder / SEARCH)
        if not isinstance(model.search, dict):
            raise UserError(f"file {folder / SEARCH}: not the record of a search; remove it")
    return model.eval().to(device)


def _require_type(tensors: Mapping[str, Tensor], name: str, expected: torch.dtype, path: Path) -> None:
    """Raise UserError where a weight has another type than the network's or values that are not finite."""
    tensor = tensors.get(name)
    if tensor is None:
        return
    if tensor.dtype != expected:
        raise UserError(f"model {path}: weight '{name}' holds {tensor.dtype}, not {expected}")
    if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
        raise UserError(f"model {path}: weight '{name}' holds NaN or infinite values")


def require_new(path: Path) -> None:
    """Raise UserError where `path` cannot be written or holds anything but unfinished work; makes nothing.

    Unfinished are a training (its `training.json` is there, its model is not) and a search for weights.
    """
    require_writable(path)
    if (path / TRAINING).exists() and not (path / "model.json").exists():
        return
    if path.exists() and any(entry.name not in (SEARCH, TRIES) for entry in path.iterdir()):
        raise UserError(f"output {path}: exists already; choose another name or remove it")
