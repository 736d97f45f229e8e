import hashlib
import json
import os
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from reference import affine, assert_state, message_of, state_of, toy_data
from torch import Tensor

from robust_student.core.tensors import UNBOUNDED, InputRange
from robust_student.data.readers.load import Data
from robust_student.models.model import as_model, require_fit
from robust_student.models.run_directory import METRICS, SEARCH, load, require_new, save
from robust_student.runtime.files import append_jsonl, read_json, write_json

DATA = toy_data()
TABLE = toy_data(shape=(5,), input_range=UNBOUNDED)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run directory with a small network for the toy data."""
    folder = tmp_path / "run"
    folder.mkdir()
    save(as_model("mlp:4", DATA), folder)
    return folder


def rewrite(run: Path, **changes: Any) -> None:
    """Change entries of the card."""
    write_json(run / "model.json", read_json(run / "model.json") | changes)


def reweigh(run: Path, change: Callable[[dict[str, Tensor]], None]) -> None:
    """Change the stored weights and the checksum with them."""
    tensors = safetensors.torch.load((run / "model.safetensors").read_bytes())
    change(tensors)
    content = safetensors.torch.save(tensors)
    (run / "model.safetensors").write_bytes(content)
    rewrite(run, sha256=hashlib.sha256(content).hexdigest())


# Save and load --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "data"),
    [("mlp:4", DATA), ("cnn:2", DATA), ("resnet8:2", DATA), ("linear", TABLE), ("mlp", TABLE)],
    ids=["mlp", "cnn", "resnet", "linear table", "mlp table"],
)
def test_a_loaded_model_gives_identical_logits(spec: str, data: Data, tmp_path: Path) -> None:
    model = as_model(spec, data)
    model(data.training_examples.floats())  # moves the statistics of BatchNorm
    save(model, tmp_path)
    again = load(tmp_path)
    assert not any(part.training for part in again.modules())
    assert torch.equal(again(data.test.floats()), model.eval()(data.test.floats()))
    assert_state(again, state_of(model))


@pytest.mark.parametrize("data", [DATA, TABLE, replace(DATA, input_range=InputRange(-1.0, 2.0))])
def test_a_card_says_what_the_data_were(data: Data, tmp_path: Path) -> None:
    save(as_model("linear", data), tmp_path)
    card = load(tmp_path).card
    assert (card.network, card.input_shape, card.classes, card.range) == (
        "linear",
        data.shape,
        data.classes,
        data.input_range,
    )
    require_fit(load(tmp_path), data)


def test_a_card_is_strict_json_with_null_for_no_limit(tmp_path: Path) -> None:
    save(as_model("linear", TABLE), tmp_path)
    card = json.loads((tmp_path / "model.json").read_text(), parse_constant=pytest.fail)
    assert card["input_range"] == [None, None] and card["schema_version"] == 1
    assert card["sha256"] == hashlib.sha256((tmp_path / "model.safetensors").read_bytes()).hexdigest()


def test_normalisation_by_the_training_statistics_is_inside_the_model() -> None:
    model = as_model("linear", DATA)
    pixels = DATA.training_examples.floats()
    inputs = DATA.test.floats()
    standardised = (inputs - pixels.mean()) / pixels.std(correction=0)
    torch.testing.assert_close(model(inputs), model.network(standardised))


def test_a_module_of_the_user_is_taken_without_normalisation() -> None:
    network = affine(torch.arange(48.0).view(3, 16))
    model = as_model(network, DATA)
    assert model.card.network is None and torch.equal(model(DATA.test.floats()), network(DATA.test.floats()))


def test_a_model_of_a_users_module_is_loaded_with_that_module(tmp_path: Path) -> None:
    save(as_model(affine(torch.arange(48.0).view(3, 16)), DATA), tmp_path)
    assert "network=" in message_of(lambda: load(tmp_path))
    again = load(tmp_path, network=affine(torch.zeros(3, 16)))
    assert torch.equal(again(torch.ones(1, 1, 4, 4)), torch.tensor([[120.0, 376.0, 632.0]]))


def test_the_records_of_training_and_search_come_with_the_model(run: Path) -> None:
    append_jsonl(run / METRICS, [{"epoch": 1}, {"epoch": 2}])
    write_json(run / SEARCH, {"tries": [3]})
    model = load(run)
    assert model.history == [{"epoch": 1}, {"epoch": 2}] and model.search == {"tries": [3]}


# Damage and hostility -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
def test_a_missing_file_is_named(name: str, run: Path) -> None:
    (run / name).unlink()
    assert name in message_of(lambda: load(run))


@pytest.mark.parametrize("length", [0, 7, 100, -1])
def test_a_truncated_weight_file_is_damaged(length: int, run: Path) -> None:
    weights = run / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:length])
    assert "damaged" in message_of(lambda: load(run))
    rewrite(run, sha256="")
    assert "not a valid safetensors file" in message_of(lambda: load(run))


def test_a_single_flipped_bit_is_noticed(run: Path) -> None:
    content = bytearray((run / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (run / "model.safetensors").write_bytes(content)
    assert "checksum" in message_of(lambda: load(run))


class Payload:
    """Unpickling this makes a directory."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("write", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_a_pickle_in_disguise_is_refused_and_never_executed(
    write: Callable[[object, Path], None], run: Path, tmp_path: Path
) -> None:
    witness = tmp_path / "executed"
    write(Payload(witness), run / "model.safetensors")
    rewrite(run, sha256=hashlib.sha256((run / "model.safetensors").read_bytes()).hexdigest())
    assert "not a valid safetensors file" in message_of(lambda: load(run)) and not witness.exists()


def drop(name: str) -> Callable[[dict[str, Tensor]], None]:
    def change(tensors: dict[str, Tensor]) -> None:
        del tensors[name]

    return change


def put(name: str, value: Tensor) -> Callable[[dict[str, Tensor]], None]:
    def change(tensors: dict[str, Tensor]) -> None:
        tensors[name] = value

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (put("network.1.weight", torch.full((4, 16), torch.nan)), "'network.1.weight' holds NaN"),
        (put("network.1.bias", torch.tensor([0.0, 0.0, torch.inf, 0.0])), "'network.1.bias' holds NaN or infinite"),
        (put("network.1.weight", torch.zeros(4, 15)), "do not fit network 'mlp:4'"),
        (put("network.9.weight", torch.zeros(1)), "do not fit"),
        (drop("network.1.bias"), "do not fit"),
        (drop("mean"), "no normalisation"),
        (drop("std"), "no normalisation"),
        (put("mean", torch.zeros(7)), ""),
        (put("std", torch.zeros(1, 1, 1)), ""),
    ],
    ids=["nan", "infinite", "shape", "extra", "missing", "no mean", "no std", "mean shape", "zero std"],
)
def test_bad_weights_are_refused_in_one_line(
    change: Callable[[dict[str, Tensor]], None], words: str, run: Path
) -> None:
    reweigh(run, change)
    assert words in message_of(lambda: load(run))


@pytest.mark.parametrize(
    "changes",
    [
        {"surprise": 1},
        {"schema_version": 2},
        {"schema_version": 0},
        {"schema_version": "new"},
        {"network": 5},
        {"network": "transformer"},
        {"network": "cnn:0"},
        {"network": "module_that_does_not_exist:build"},
        {"input_shape": []},
        {"input_shape": "4x4"},
        {"input_shape": [1, 4, 4.5]},
        {"input_shape": [-1, 4, 4]},
        {"input_shape": [1, 0, 4]},
        {"classes": ["one"]},
        {"classes": [1, 2, 3]},
        {"input_range": [0.0]},
        {"input_range": ["low", "high"]},
        {"input_range": [1.0, 0.0]},
        {"sha256": None},
        {"provenance": []},
    ],
    ids=lambda changes: json.dumps(changes),
)
def test_a_hostile_card_is_refused_in_one_line(changes: dict[str, Any], run: Path) -> None:
    rewrite(run, **changes)
    assert str(run) in message_of(lambda: load(run)) or "model" in message_of(lambda: load(run))


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", '{"network": NaN}', "\x00", "[" * 5000])
def test_a_card_that_is_no_json_object_is_refused_by_name(text: str, run: Path) -> None:
    (run / "model.json").write_text(text)
    assert "model.json" in message_of(lambda: load(run))


def test_a_card_in_another_encoding_is_refused_by_name(run: Path) -> None:
    (run / "model.json").write_bytes(b"\xff\xfe{")
    assert "model.json" in message_of(lambda: load(run))


@pytest.mark.parametrize("missing", ["network", "input_shape", "classes"])
def test_a_card_without_an_entry_is_refused_by_its_name(missing: str, run: Path) -> None:
    card = read_json(run / "model.json")
    del card[missing]
    write_json(run / "model.json", card)
    assert missing in message_of(lambda: load(run))


def test_a_new_output_may_hold_the_record_of_a_search_and_nothing_else(tmp_path: Path) -> None:
    require_new(tmp_path / "a" / "b")
    assert not (tmp_path / "a").exists()
    (tmp_path / SEARCH).write_text("{}")
    require_new(tmp_path)
    (tmp_path / "more").write_text("")
    assert "exists already" in message_of(lambda: require_new(tmp_path))
