"""What must be the same for interrupted work to be continued, and what differs."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from robust_student.core.module_state import serialised
from robust_student.data.examples import Data, Examples
from robust_student.data.streams import Stream
from robust_student.models.model import Model
from robust_student.models.probe import Answers, alike, probe, probe_architecture

PROBE = "probe"
"""Name, in a fingerprint, of the answers of every network to its probe."""
_ANSWERS = TypeAdapter(dict[str, Answers | None])


def fingerprint(
    models: Mapping[str, Model],
    data: Data,
    parts: Mapping[str, Examples | Stream],
    settings: Mapping[str, Any],
    untrained: str | None = None,
) -> dict[str, Any]:
    """What must be the same for an evaluation, a training or a search to be continued.

    Settings come first, because the rest may follow from them: the first difference is the one that is named.

    Args:
        models: name -> model.
        data: by its name.
        parts: those parts of the data that are used, by a name for each.
        settings: those that the result depends on, as plain values.
        untrained: name of the model that is to be trained: its weights may differ, their shapes may not.
    """
    code = {name: digest for name, model in models.items() if (digest := model.code()) is not None}
    return {
        "settings": dict(settings),
        "models": {name: _shapes(model) if name == untrained else _weights(model) for name, model in models.items()},
        **({"code": code} if code else {}),
        "data": data.name,
        **({} if data.group is None else {"group": data.group}),
        **{name: f"stream of {len(p)}" if isinstance(p, Stream) else p.digest() for name, p in parts.items()},
        PROBE: {
            name: probe_architecture(model) if name == untrained else probe(model) for name, model in models.items()
        },
    }


def _weights(model: Model) -> str:
    """Architecture and weights, and what the model does before and after them."""
    around = [str(part) for part in (model.card.network_size, model.card.order) if part is not None]
    weights = hashlib.sha256(serialised(model.state_dict())).hexdigest()
    return ":".join([str(model.card.network), *around, weights])


def _shapes(model: Model) -> str:
    """Architecture, and the names and shapes of the weights."""
    shapes = json.dumps([[name, list(tensor.shape)] for name, tensor in model.state_dict().items()])
    network = model.card.network or type(model.network).__name__
    return f"{network}:{hashlib.sha256(shapes.encode()).hexdigest()}"


def difference(there: Any, here: dict[str, Any]) -> str | None:
    """The first thing in which two fingerprints differ, as `name: OLD there, NEW here`; None where they agree.

    Probes are compared up to rounding, and only where both fingerprints have them. `there` comes from a file.
    """
    if not isinstance(there, dict):
        return "everything"
    change = _difference(_without_probe(there), _without_probe(here))
    if change is not None:
        return change
    try:
        saved_answers = _ANSWERS.validate_python(there.get(PROBE, {}))
    except ValidationError:
        return f"{PROBE}: damaged there"
    for name, own_answers in here.get(PROBE, {}).items():
        saved = saved_answers.get(name)
        if own_answers is not None and saved is not None and not alike(saved, own_answers):
            return f"{PROBE}.{name}: the same weights give other logits, so code that the network calls has changed"
    return None


def _difference(there: dict[str, Any], here: dict[str, Any], place: str = "") -> str | None:
    for name in dict.fromkeys([*there, *here]):
        old, new = there.get(name), here.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            change = _difference(old, new, f"{place}{name}.")
            if change is not None:
                return change
        elif old != new:
            return f"{place}{name}: {_brief(old)} there, {_brief(new)} here"
    return None


def _brief(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:16]}..."


def _without_probe(fingerprint: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fingerprint.items() if name != PROBE}
