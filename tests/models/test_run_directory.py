import hashlib
import json
import math
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
from torch import Tensor, nn

from robust_student.core.tensors import UNBOUNDED, InputRange
from robust_student.data.readers.load import Data
from robust_student.models.model import Model, as_model, require_fit
from robust_student.models.run_directory import METRICS, SEARCH, load, require_new, save
from robust_student.runtime.files import (
    append_jsonl,
    read_json,
    read_jsonl,
    replacing,
    require_writable,
    write_atomically,
    write_json,
)
from robust_student.runtime.hardware import resolve_device
from robust_student.runtime.provenance import provenance

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


@pytest.mark.parametrize("kept", [0, 7, 100, -1])
def test_a_truncated_weight_file_is_damaged(kept: int, run: Path) -> None:
    weights = run / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:kept])
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


# Fit ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"train": toy_data(shape=(1, 4, 5)).train}, "(1, 4, 4)"),
        ({"classes": ("a", "b")}, "3 classes"),
        ({"classes": ("class 0", "class 2", "class 1")}, "class 1 is 'class 1', in the data it is 'class 2'"),
        ({"input_range": InputRange(0.0, 2.0)}, "(0.0, 2.0)"),
        ({"input_range": UNBOUNDED}, "(0.0, 1.0)"),
    ],
    ids=["shape", "count", "order", "range", "unbounded"],
)
def test_a_model_that_does_not_fit_the_data_is_refused(change: dict[str, Any], words: str) -> None:
    model = as_model("linear", DATA)
    other = replace(DATA, **change)
    message = message_of(lambda: require_fit(model, other, "the teacher"))
    assert message.startswith("the teacher: ") and words in message
    assert words in message_of(lambda: as_model(model, other))


def test_a_model_that_fits_is_passed_on_as_it_is() -> None:
    model = as_model("linear", DATA)
    assert as_model(model, DATA) is model


@pytest.mark.parametrize("network", ["linaer", affine(torch.zeros(4, 16)), affine(torch.zeros(3, 15))])
def test_a_network_that_does_not_fit_the_data_is_refused(network: str | nn.Module) -> None:
    message_of(lambda: as_model(network, DATA))


# Logits ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 7, 30, 1000])
def test_logits_are_those_of_a_direct_pass_for_any_batch(batch: int) -> None:
    model = as_model("resnet8:2", DATA)
    inputs = DATA.test.floats()
    expected = load_free_copy(model)(inputs)
    torch.testing.assert_close(model.logits(inputs, batch), expected)


def load_free_copy(model: Model) -> nn.Module:
    """The same weights in a second model in evaluation mode."""
    copy = as_model("resnet8:2", DATA)
    copy.load_state_dict(model.state_dict())
    return copy.eval()


def test_logits_restore_the_mode_of_every_module_and_touch_no_buffer() -> None:
    model = as_model("resnet8:2", DATA).train()
    frozen = next(part for part in model.modules() if isinstance(part, nn.BatchNorm2d))
    frozen.eval()
    before, modes = state_of(model), [part.training for part in model.modules()]
    assert not model.logits(DATA.test.floats()).requires_grad
    assert [part.training for part in model.modules()] == modes
    assert_state(model, before)


def test_logits_restore_the_mode_when_the_pass_fails() -> None:
    model = as_model("linear", DATA).train()
    with pytest.raises(RuntimeError):
        model.logits(torch.zeros(1, 3))
    assert all(part.training for part in model.modules())


# Files ----------------------------------------------------------------------------------------------------------------


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("existing", [False, True])
def test_replacing_puts_the_new_directory_in_place_and_leaves_nothing_else(existing: bool, tmp_path: Path) -> None:
    target = tmp_path / "out"
    if existing:
        target.mkdir()
        (target / "old").write_text("old")
    with replacing(target) as draft:
        (draft / "new").write_text("new")
        assert draft != target and (target / "old").exists() is existing
    assert names_in(target) == {"new"} and names_in(tmp_path) == {"out"}
    assert target.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("existing", [False, True])
@pytest.mark.parametrize("stop", [ValueError, KeyboardInterrupt])
def test_replacing_keeps_what_was_there_when_the_block_fails(
    existing: bool, stop: type[BaseException], tmp_path: Path
) -> None:
    target = tmp_path / "out"
    if existing:
        target.mkdir()
        (target / "old").write_text("old")
    with pytest.raises(stop), replacing(target) as draft:
        (draft / "new").write_text("new")
        raise stop
    assert names_in(tmp_path) == ({"out"} if existing else set())
    assert not existing or names_in(target) == {"old"}


@pytest.mark.parametrize("require", [require_new, require_writable])
def test_an_output_that_is_a_file_or_below_one_is_refused(require: Callable[[Path], None], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        assert str(path) in message_of(lambda path=path: require(path))  # type: ignore[misc]


def test_a_new_output_may_hold_the_record_of_a_search_and_nothing_else(tmp_path: Path) -> None:
    require_new(tmp_path / "a" / "b")
    assert not (tmp_path / "a").exists()
    (tmp_path / SEARCH).write_text("{}")
    require_new(tmp_path)
    (tmp_path / "more").write_text("")
    assert "exists already" in message_of(lambda: require_new(tmp_path))


def failing_sync(descriptor: int) -> None:
    raise OSError("disk on fire")


def test_an_interrupted_write_keeps_the_old_content_and_leaves_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_atomically(tmp_path / "file", b"old")
    monkeypatch.setattr(os, "fsync", failing_sync)
    with pytest.raises(OSError, match="disk on fire"):
        write_atomically(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"old" and names_in(tmp_path) == {"file"}


def test_an_atomic_write_replaces_the_content_and_leaves_nothing_else(tmp_path: Path) -> None:
    for content in (b"first", b"second"):
        write_atomically(tmp_path / "file", content)
    assert (tmp_path / "file").read_bytes() == b"second" and names_in(tmp_path) == {"file"}
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_json_files_never_hold_nan_or_infinity(value: float, tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        write_json(tmp_path / "file.json", {"x": value})
    with pytest.raises(ValueError):
        append_jsonl(tmp_path / "file.jsonl", [{"x": 1}, {"x": value}])
    assert not (tmp_path / "file.json").exists() and (tmp_path / "file.jsonl").read_text() == ""


def test_appended_rows_come_back_in_order(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    append_jsonl(path, [{"a": 1}, {"b": "zwei\nü"}])
    append_jsonl(path, [])
    append_jsonl(path, [{"c": None}])
    assert read_jsonl(path) == [{"a": 1}, {"b": "zwei\nü"}, {"c": None}]


@pytest.mark.parametrize("kept", range(1, 9))
def test_a_last_line_that_was_cut_is_dropped(kept: int, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n' + '{"a": 25}'[:kept])
    assert read_jsonl(path) == [{"a": 1}]


@pytest.mark.parametrize("bad", [b'{"a"\n{"a": 2}\n', b'{"a": \n', b'\xff\n{"a": 2}\n'])
def test_any_other_bad_line_is_named(bad: bytes, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a": 1}\n' + bad)
    message = message_of(lambda: read_jsonl(path))
    assert "rows.jsonl" in message and "line 2" in message


# Device and provenance ------------------------------------------------------------------------------------------------


def test_the_device_is_found_by_name() -> None:
    assert resolve_device("cpu") == torch.device("cpu")
    accelerated = torch.cuda.is_available() or torch.backends.mps.is_available()
    assert (resolve_device("auto").type == "cpu") is not accelerated


@pytest.mark.parametrize("name", ["abacus", "", "cuda:999"])
def test_a_device_that_is_not_there_is_refused_by_name(name: str) -> None:
    assert f"'{name}'" in message_of(lambda: resolve_device(name))


def test_provenance_is_json_and_says_where_the_result_comes_from() -> None:
    found = provenance({"epochs": 3}, "digits", 7)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert (found["settings"], found["data"], found["seed"], found["torch"]) == (
        {"epochs": 3},
        "digits",
        7,
        torch.__version__,
    )


def test_a_half_open_range_of_the_data_reaches_the_card() -> None:
    half_open = toy_data(shape=(2,), input_range=InputRange(0.0, math.inf))
    assert as_model("linear", half_open).card.range == half_open.input_range
