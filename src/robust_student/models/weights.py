"""Weights that were saved elsewhere: a user's own state_dict, read without running anything that is in the file."""

import pickle
import re
import textwrap
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from robust_student.core.errors import UserError, require_file

_WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "weights")
_PREFIXES = ("module.", "_orig_mod.", "model.", "network.", "net.")
_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)")  # names of torchvision's own old files


def load_weights(network: nn.Module, path: Path, *, new_classes: bool = False) -> None:
    """Copy the weights in `path` into `network`: a `.safetensors` file, or a state_dict saved with `torch.save`.

    `torch.save` files are read with `weights_only=True`: tensors and plain containers, no code. A dictionary that holds
    the state_dict under `state_dict` or `model` is unwrapped, and a prefix that every name has (`module.` of
    DataParallel, `_orig_mod.` of torch.compile) is dropped. Raises UserError where the file is missing, would have to
    be unpickled, or holds names, shapes or values that do not fit. With `new_classes` the network may tell other
    classes apart: what differs from the file in its first dimension alone keeps the values it has.
    """
    place = f"weights {path}"
    fit_weights(network, _unwrapped(_read(path), path), place, new_classes=new_classes)


def fit_weights(network: nn.Module, tensors: Mapping[str, Tensor], place: str, *, new_classes: bool = False) -> None:
    """Copy tensors by name into `network`, as `load_weights` does; `place` is what an error says they come from."""
    state = network.state_dict()
    for prefix in _PREFIXES:
        if not set(tensors) & set(state) and all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    tensors = {name if name in state else _DENSENET.sub(r"\1\2", name): tensor for name, tensor in tensors.items()}
    tensors |= _implied(state, tensors)
    missing, extra = sorted(set(state) - set(tensors)), sorted(set(tensors) - set(state))
    if missing or extra:
        first = f"no '{missing[0]}' in it" if missing else f"'{extra[0]}' in it has no place in the network"
        count = f"{len(missing)} missing, {len(extra)} unknown"
        raise UserError(f"{place}: do not fit the network ({first}; {count})")
    for name, tensor in tensors.items():
        target = state[name]
        if new_classes and tensor.shape != target.shape and tensor.shape[1:] == target.shape[1:] and tensor.dim() > 0:
            tensors[name] = target
        elif tensor.shape != target.shape:
            shape, needed = tuple(tensor.shape), tuple(target.shape)
            raise UserError(f"{place}: '{name}' has shape {shape}, the network expects {needed}")
        kind = tensor.is_floating_point() == target.is_floating_point() and not tensor.is_complex()
        if not kind or (tensor.is_floating_point() and tensor.element_size() < 2):
            raise UserError(f"{place}: '{name}' holds {tensor.dtype}, the network expects {target.dtype}")
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise UserError(f"{place}: '{name}' holds NaN or infinite values")
    network.load_state_dict(tensors)


def _implied(state: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What a file may leave out: counters of batches seen, and all but one name of a weight that has several."""
    implied = {}
    for name, tensor in state.items():
        if name in tensors:
            continue
        if name.endswith("num_batches_tracked"):
            implied[name] = tensor
        shared = [n for n in tensors if n in state and tensor.numel() > 0 and _same(state[n], tensor)]
        if shared:
            implied[name] = tensors[shared[0]]
    return implied


def _same(first: Tensor, second: Tensor) -> bool:
    """Whether two names stand for one tensor."""
    return first.data_ptr() == second.data_ptr() and first.shape == second.shape


def _read(path: Path) -> Any:
    require_file(path, f"weights {path}: cannot read them")
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
        reason = textwrap.shorten(str(error), 160, placeholder=" ...") or type(error).__name__
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
