"""Models in the layout of the Hugging Face hub: config.json and model.safetensors in a folder, local or fetched."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robust_student.core.errors import UserError
from robust_student.core.extras import require
from robust_student.models.preprocessing import Preprocessing, from_config

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "model.json"
"""What a repository holds; with a model.json it is a run of ours."""
_FILES = (CONFIG, WEIGHTS, CARD, "preprocessor_config.json", "metrics.jsonl", "search.json")


@dataclass(frozen=True)
class Repository:
    """A folder in the hub's layout."""

    folder: Path
    config: Mapping[str, Any]
    """Content of config.json."""
    preprocessing: Preprocessing
    """What it says about inputs and classes."""

    @property
    def weights(self) -> Path:
        """The file of weights."""
        return self.folder / WEIGHTS

    @property
    def network(self) -> str | None:
        """The network as a model spec: `network` in config.json, or timm's `architecture`; None where it names none."""
        name, architecture = self.config.get("network"), self.config.get("architecture")
        if isinstance(name, str):
            return name
        if not isinstance(architecture, str):
            return None
        arguments = self.config.get("model_args")
        options = arguments.items() if isinstance(arguments, dict) else ()
        words = [f"{option}={_word(value)}" for option, value in options if option not in _OURS]
        return ",".join([f"timm:{architecture.partition('.')[0]}", *words])


_OURS = ("num_classes", "in_chans", "input_shape")  # the data says so


def folder_of(spec: str) -> Path:
    """The local folder that `hub:USER/REPO[@REVISION]` or `hub:FOLDER` names; downloads what is not there yet.

    Only JSON and safetensors files are fetched. Raises UserError where the folder or the repository cannot be had.
    """
    name = spec.removeprefix("hub:")
    if not name.strip():
        raise UserError("model 'hub:': names no repository; write hub:USER/REPO")
    if Path(name).is_dir():
        return Path(name)
    fetch = require("huggingface_hub", "hub", f"model '{spec}'").snapshot_download
    repository, _, revision = name.partition("@")
    try:
        return Path(fetch(repository, revision=revision or None, allow_patterns=list(_FILES)))
    except Exception as error:  # the network, the name, the licence: the library has many errors for them
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise UserError(f"model '{spec}': no such folder, and cannot be fetched from the hub ({reason})") from None


def is_repository(folder: Path) -> bool:
    """Whether a folder is in the hub's layout and no run of ours."""
    try:
        return (folder / CONFIG).is_file() and not (folder / CARD).is_file()
    except OSError:  # no name that a folder can have
        return False


def is_run(folder: Path) -> bool:
    """Whether a folder holds a run of ours."""
    try:
        return (folder / CARD).is_file()
    except OSError:  # no name that a folder can have
        return False


def read_repository(folder: Path) -> Repository:
    """The description in a folder of the hub's layout; raises UserError where a file is missing or malformed."""
    who = f"model {folder}"
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise UserError(f"{who}: no file {name} there (expected a run directory, or config.json and {WEIGHTS})")
    config = _read(folder / CONFIG)
    preprocessor = _read(folder / "preprocessor_config.json") if (folder / "preprocessor_config.json").is_file() else {}
    return Repository(folder, config, from_config(config, preprocessor, who))


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"file {path}: not valid JSON ({error})") from None
    if not isinstance(content, dict):
        raise UserError(f"file {path}: expected an object, found {type(content).__name__}")
    return content


def _word(value: Any) -> str:
    """An option's value as it is written in a spec."""
    return "x".join(map(str, value)) if isinstance(value, list) else json.dumps(value)
