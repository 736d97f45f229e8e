"""Weights that were saved elsewhere: a user's own state_dict, read without running anything that is in the file."""

import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from robust_student.tensors import UserError

_WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "weights")
_PREFIXES = ("module.", "_orig_mod.", "model.")


def load_weights(network: nn.Module, path: Path) -> None:
    """Copy the weights in `path` into `network`: a `.safetensors` file, or a state_dict saved with `torch.save`.

    `torch.save` files are read with `weights_only=True`: tensors and plain containers, no code. A dictionary that holds
    the state_dict under `state_dict` or `model` is unwrapped, and a prefix that every name has (`module.` of
    DataParallel, `_orig_mod.` of torch.compile) is dropped. Raises UserError where the file is missing, would have to
    be unpickled, or holds names, shapes or values that do not fit.
    """
    tensors = _unwrapped(_read(path), path)
    wanted = network.state_dict()
    for prefix in _PREFIXES:
        if not set(tensors) & set(wanted) and all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    missing, extra = sorted(set(wanted) - set(tensors)), sorted(set(tensors) - set(wanted))
    if missing or extra:
        first = f"no '{missing[0]}' in it" if missing else f"'{extra[0]}' in it has no place in the network"
        count = f"{len(missing)} missing, {len(extra)} unknown"
        raise UserError(f"weights {path}: do not fit the network ({first}; {count})")
    for name, tensor in tensors.items():
        if tensor.shape != wanted[name].shape:
            found, expected = tuple(tensor.shape), tuple(wanted[name].shape)
            raise UserError(f"weights {path}: '{name}' has shape {found}, the network expects {expected}")
        if tensor.is_floating_point() != wanted[name].is_floating_point() or tensor.is_complex():
            raise UserError(f"weights {path}: '{name}' holds {tensor.dtype}, the network expects {wanted[name].dtype}")
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise UserError(f"weights {path}: '{name}' holds NaN or infinite values")
    network.load_state_dict(tensors)


def _read(path: Path) -> Any:
    if not path.is_file():
        raise UserError(f"weights {path}: no such file")
    if path.suffix == ".safetensors":
        try:
            return safetensors.torch.load_file(path)
        except (safetensors.SafetensorError, OSError) as error:
            raise UserError(f"weights {path}: not a valid safetensors file ({error})") from None
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                    raise ValueError("its entries are compressed, those of torch.save never are")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the pickle protocol; what matters is refused below
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = " ".join(str(error).split())
        _, _, culprit = reason.partition("Unsupported global: GLOBAL ")
        if not culprit and "Unsupported operand" in reason:
            raise UserError(f"weights {path}: not a file of torch.save; a plain pickle is never read") from None
        what = f"'{culprit.split()[0]}'" if culprit else "more than tensors"
        raise UserError(
            f"weights {path}: refused, it holds {what}, and reading that could run code; save model.state_dict() alone"
        ) from None
    except Exception as error:  # its unpickler raises whatever a damaged file makes an index or struct raise
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"weights {path}: not a file of torch.save ({reason})") from None


def _unwrapped(content: Any, path: Path) -> dict[str, Tensor]:
    """The mapping from names to tensors, wherever it is."""
    for name in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
    if not isinstance(content, Mapping) or not content:
        raise UserError(f"weights {path}: holds {type(content).__name__}, not a state_dict")
    strange = [str(name) for name, value in content.items() if not isinstance(value, Tensor)]
    if strange:
        raise UserError(f"weights {path}: '{strange[0]}' is not a tensor; save model.state_dict() alone")
    return {str(name): value for name, value in content.items()}
