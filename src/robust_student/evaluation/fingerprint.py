"""What must be the same for a measurement to be continued."""

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from robust_student.core.errors import UserError
from robust_student.core.module_state import serialised
from robust_student.core.settings import Settings
from robust_student.data.readers.load import Data
from robust_student.models.model import Model, as_model, require_fit
from robust_student.models.probe import PROBE, probe


def prepare(name: str, model: Model | nn.Module, data: Data, device: torch.device) -> Model:
    """A model ready to be measured on `data`; UserError where they do not belong together.

    Also where it needs others beside an example to answer at all, as BatchNorm without running statistics may.
    """
    if isinstance(model, Model):
        require_fit(model, data, f"model '{name}'")
    ready = as_model(model, data).to(device).eval()
    try:
        ready.logits(torch.zeros(1, *data.shape))
    except (RuntimeError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"model '{name}': fails on a single input ({reason}); it must answer each input by itself, for "
            "example with running statistics"
        ) from None
    return ready


def describe(model: Model) -> dict[str, Any]:
    """What a model's run recorded about it."""
    described: dict[str, Any] = {"card": model.card.model_dump(mode="json")}
    described |= {"history": model.history, "search": model.search}
    epoch = model.card.provenance.get("epoch")
    return described | ({} if epoch is None else {"best_epoch": epoch})


def fingerprint(models: Mapping[str, Model], data: Data, settings: Settings) -> dict[str, Any]:
    """What must be the same for an interrupted run of measurements to be continued."""
    code = {name: checksum for name, model in models.items() if (checksum := model.code()) is not None}
    return {
        "models": {name: _identity(model) for name, model in models.items()},
        **({"code": code} if code else {}),
        "data": data.name,
        "test": data.test.digest(),
        "settings": settings.model_dump(mode="json"),
        PROBE: {name: probe(model) for name, model in models.items()},
    }


def _identity(model: Model) -> str:
    """Architecture and weights, and what the model does before and after them."""
    around = [str(part) for part in (model.card.network_size, model.card.order) if part is not None]
    weights = hashlib.sha256(serialised(model.state_dict())).hexdigest()
    return ":".join([str(model.card.network), *around, weights])
