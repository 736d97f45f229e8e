"""CIFAR-10 and CIFAR-100 in files made here, in the exact layout of the published ones; pickles that must not run."""

import os
import pickle
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from parquet_files import encoded, pictures, write_parquet
from reference import message_of

from robust_student.core.errors import UserError
from robust_student.core.tensors import UNIT_RANGE, Pixels
from robust_student.data.readers.load import load_data
from robust_student.data.readers.pickles import read_pickle

NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
TRAINING = [f"data_batch_{k}" for k in range(1, 6)]


# Pickles as Python 2 wrote them ---------------------------------------------------------------------------------------


def old(value: Any) -> bytes:
    """Opcodes of protocol 2 as Python 2 wrote them: its strings are BINSTRINGs, arrays go through _reconstruct."""
    if isinstance(value, np.ndarray):
        kind = b"cnumpy\ndtype\n" + old(value.dtype.str[1:]) + b"K\x00K\x01\x87R"
        kind += b"(K\x03" + old("|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        shape = b"(" + b"".join(old(side) for side in value.shape) + b"t"
        made = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + old("b") + b"\x87R"
        return made + b"(K\x01" + shape + kind + b"\x89" + old(value.tobytes()) + b"tb"
    if isinstance(value, dict):
        return b"}(" + b"".join(old(key) + old(entry) for key, entry in value.items()) + b"u"
    if isinstance(value, list):
        return b"](" + b"".join(old(entry) for entry in value) + b"e"
    if isinstance(value, int):
        return b"J" + struct.pack("<i", value)
    content = value if isinstance(value, bytes) else value.encode("latin-1")
    return (
        b"U" + bytes([len(content)]) + content
        if len(content) < 256
        else b"T" + struct.pack("<i", len(content)) + content
    )


def old_pickle(value: Any) -> bytes:
    return b"\x80\x02" + old(value) + b"."


def test_the_writer_of_old_pickles_agrees_with_python() -> None:
    """The file format of the tests is judged by Python's own unpickler, which knows what Python 2 wrote."""
    array = np.arange(300, dtype=np.uint8).reshape(3, 100)
    value = {"data": array, "labels": [1, -2], "text": "x" * 300}
    unpickled = pickle.loads(old_pickle(value), encoding="bytes")
    assert np.array_equal(unpickled[b"data"], array)
    assert unpickled[b"labels"] == [1, -2] and unpickled[b"text"] == b"x" * 300


Writer = Callable[[Any], bytes]
WRITERS: dict[str, Writer] = {f"protocol {k}": partial(pickle.dumps, protocol=k) for k in (2, 3, 4, 5)}
WRITERS["python 2"] = old_pickle


def pixels(count: int, seed: int) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (count, 3072)).astype(np.uint8)


def write_cifar10(folder: Path, dump: Writer = old_pickle) -> Path:
    """Four images a batch, labels 0 to 9 in turn."""
    folder.mkdir(parents=True, exist_ok=True)
    for k, name in enumerate([*TRAINING, "test_batch"]):
        labels = [(4 * k + i) % 10 for i in range(4)]
        names = [f"picture_{k}_{i}.png" for i in range(4)]
        batch = {"batch_label": f"batch {k}", "labels": labels, "data": pixels(4, k), "filenames": names}
        (folder / name).write_bytes(dump(batch))
    meta = {"num_cases_per_batch": 4, "label_names": NAMES, "num_vis": 3072}
    (folder / "batches.meta").write_bytes(dump(meta))
    return folder


def write_cifar100(folder: Path, dump: Writer = old_pickle) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for k, (name, count) in enumerate((("train", 200), ("test", 100))):
        fine, coarse = [i % 100 for i in range(count)], [i % 20 for i in range(count)]
        batch = {"filenames": ["x"] * count, "batch_label": name, "fine_labels": fine, "coarse_labels": coarse}
        (folder / name).write_bytes(dump(batch | {"data": pixels(count, k)}))
    names = {
        "fine_label_names": [f"fine {k}" for k in range(100)],
        "coarse_label_names": [f"coarse {k}" for k in range(20)],
    }
    (folder / "meta").write_bytes(dump(names))
    return folder


@pytest.mark.parametrize("sub_folder", ["", "cifar-10-batches-py"])
@pytest.mark.parametrize("writer", list(WRITERS))
def test_cifar10_batches_give_their_pixels_labels_and_names(writer: str, sub_folder: str, tmp_path: Path) -> None:
    write_cifar10(tmp_path / sub_folder, WRITERS[writer])
    data = load_data(f"cifar10:{tmp_path}")
    planes = np.concatenate([pixels(4, k) for k in range(6)])
    images = np.stack([[row[c * 1024 : (c + 1) * 1024].reshape(32, 32) for c in range(3)] for row in planes])
    assert torch.equal(data.training_examples.inputs, torch.from_numpy(images[:20]))
    assert torch.equal(data.test.inputs, torch.from_numpy(images[20:]))
    assert data.training_examples.labels.tolist() == [k % 10 for k in range(20)] and data.test.labels.tolist() == [
        0,
        1,
        2,
        3,
    ]
    assert data.classes == tuple(NAMES) and data.shape == (3, 32, 32) and data.input_range == UNIT_RANGE


@pytest.mark.parametrize("writer", ["python 2", "protocol 4"])
def test_cifar100_batches_give_their_fine_labels(writer: str, tmp_path: Path) -> None:
    data = load_data(f"cifar100:{write_cifar100(tmp_path, WRITERS[writer])}")
    assert (len(data.train), len(data.test), data.shape) == (200, 100, (3, 32, 32))
    assert data.training_examples.labels.tolist() == [i % 100 for i in range(200)]
    assert data.classes == tuple(f"fine {k}" for k in range(100))


@pytest.mark.parametrize(("kind", "label", "count"), [("cifar10", "label", 10), ("cifar100", "fine_label", 100)])
def test_parquet_files_do_as_well(kind: str, label: str, count: int, tmp_path: Path) -> None:
    images = pictures(count, (32, 32, 3))
    names = [f"class {k}" for k in range(count)]
    for part in ("train", "test"):
        write_parquet(
            tmp_path / f"{part}.parquet", [encoded(i) for i in images], list(range(count)), names=names, label=label
        )
    data = load_data(f"{kind}:{tmp_path}")
    assert data.classes == tuple(names) and len(data.train) == len(data.test) == count
    other = {"cifar10": "cifar100", "cifar100": "cifar10"}[kind]
    assert f"has {count} classes" in message_of(lambda: load_data(f"{other}:{tmp_path}"))


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("data_batch_3", None, "data_batch_3: cannot read it"),
        ("batches.meta", None, "batches.meta: cannot read it"),
        ("test_batch", None, "neither test_batch nor train*.parquet"),
        ("data_batch_2", {"data": None}, "holds no 'data'"),
        ("data_batch_2", {"labels": None}, "holds no 'labels'"),
        ("data_batch_2", {"data": np.zeros((4, 3071), np.uint8)}, "'data' is no array of bytes with 3072 columns"),
        ("data_batch_2", {"data": np.zeros((4, 3072), np.int16)}, "'data' is no array of bytes"),
        ("data_batch_2", {"data": "text"}, "'data' is no array of bytes"),
        ("data_batch_2", {"labels": [1, 2, 3]}, "'labels' is no list of 4 class numbers"),
        ("data_batch_2", {"labels": [1, 2, 3, "4"]}, "'labels' is no list of 4 class numbers"),
        ("data_batch_2", {"labels": [1, 2, 3, 10]}, "label 10 is out of range for 10 classes"),
        ("data_batch_2", {"labels": [1, 2, 3, -1]}, "label -1 is out of range"),
        ("batches.meta", {"label_names": None}, "holds no 'label_names'"),
        ("batches.meta", {"label_names": 3}, "'label_names' is no list of names"),
        ("batches.meta", {"label_names": ["a", "b"]}, "has 2 classes, not 10"),
    ],
)
def test_bad_batches_are_named(name: str, change: dict[str, Any] | None, words: str, tmp_path: Path) -> None:
    path = write_cifar10(tmp_path) / name
    if change is None:
        path.unlink()
    else:
        content = read_pickle(path)
        entries = {key: value for key, value in (content | change).items() if value is not None}
        path.write_bytes(pickle.dumps(entries, protocol=4))
    assert words in message_of(lambda: load_data(f"cifar10:{tmp_path}"))


# Hostile and damaged pickles ------------------------------------------------------------------------------------------


class Payload:
    """Unpickling this makes a directory."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.path),)


def refusal(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    return message_of(lambda: read_pickle(path))


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("place", ["whole", "data", "in a list", "label", "key"])
def test_a_hostile_pickle_is_refused_and_never_executed(place: str, protocol: int, tmp_path: Path) -> None:
    write_cifar10(tmp_path)
    witness = tmp_path / "executed"
    batch: Any = {"labels": [0, 1, 2, 3], "data": pixels(4, 0)}
    bad = Payload(witness)
    if place == "whole":
        batch = bad
    elif place == "data":
        batch["data"] = bad
    elif place == "in a list":
        batch["filenames"] = ["a", [bad]]
    elif place == "label":
        batch["labels"][2] = bad
    else:
        batch["key"] = {("x",): bad}
    content = pickle.dumps(batch, protocol=protocol)
    (tmp_path / "data_batch_1").write_bytes(content)
    message = message_of(lambda: load_data(f"cifar10:{tmp_path}"))
    assert "data_batch_1: not a pickle of plain values and arrays" in message and not witness.exists()
    pickle.loads(content)
    assert witness.exists()  # so the file would have done it


@pytest.mark.parametrize(
    "content",
    [
        b"cos\nsystem\n(S'true'\ntR.",
        b"\x80\x02cbuiltins\neval\nU\x011\x85R.",
        b"\x80\x04\x8c\x08builtins\x8c\x04exec\x93\x8c\x01x\x85R.",
        b"\x80\x02(ios\nsystem\n.",
        b"\x80\x02(cos\nsystem\nU\x01xo.",
        b"\x80\x02cos\nsystem\n)\x81.",
        b"\x80\x02\x82\x01.",
        b"\x80\x02Pid\n.",
        b"\x80\x02U\x01xQ.",
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct.__globals__\n.",
        b"\x80\x04\x8c\x05numpy\x8c\x10testing.__file__\x93.",
        b"\x80\x02cnumpy\nload\nU\x01x\x85R.",
        b"\x80\x02cnumpy\ndtype\nU\x01O\x85R.",
        b"\x80\x02cnumpy\ndtype\n.",
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n}U\x0c__globals__Nsb.",
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R.",
        b"\x80\x02r\xff\xff\xff\x7f.",
        b"\x80\x02Nr\xff\xff\xff\x7f.",
        b"\x80\x02]q\x00h\x00a.",
        b"\x80\x02}.." * 2,
        b"",
        b"text",
        b"\x80\x63.",
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7fx.",
    ],
)
def test_whatever_is_no_array_is_refused_in_one_line(content: bytes, tmp_path: Path) -> None:
    message = message_of(lambda: load_data_of(tmp_path, content))
    assert str(tmp_path) in message


def load_data_of(folder: Path, content: bytes) -> None:
    """CIFAR-10 whose first batch is this file."""
    write_cifar10(folder)
    (folder / "data_batch_1").write_bytes(content)
    load_data(f"cifar10:{folder}")


def test_a_pickle_that_multiplies_its_values_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten lists, each holding the one before it a hundred times: 10^20 values in two kilobytes."""
    monkeypatch.setattr("robust_student.data.readers.pickles._MOST_VALUES", 1_000)
    content = b"\x80\x02" + b"]q\x00"
    for k in range(10):
        content += b"](" + b"h" + bytes([k]) + (b"h" + bytes([k])) * 99 + b"eq" + bytes([k + 1])
    assert "too many values" in refusal(tmp_path / "bomb", content + b".")


def test_a_pickle_that_multiplies_its_bytes_is_refused(tmp_path: Path) -> None:
    text = b"\x80\x02X\x10\x00\x00\x00" + b"x" * 16 + b"q\x00"
    calls = b"](" + b"c_codecs\nencode\nh\x00U\x06latin1\x86R" * 1001 + b"e."
    assert "too much memory" in refusal(tmp_path / "bomb", text + calls)


@given(st.binary(max_size=60))
def test_no_bytes_at_all_give_a_traceback(content: bytes) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "is_file", lambda self: True)
        patch.setattr(Path, "read_bytes", lambda self: b"\x80\x04" + content)
        try:
            read_pickle(Path("some"))
        except UserError as error:
            assert len(str(error).splitlines()) == 1


@given(st.integers(0, 10_000), st.integers(0, 255))
def test_a_flipped_byte_gives_data_or_one_line(place: int, value: int) -> None:
    content = bytearray(old_pickle({"data": pixels(1, 0)[:, :48], "labels": [3], "filenames": ["a.png"]}))
    content[place % len(content)] = value
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "is_file", lambda self: True)
        patch.setattr(Path, "read_bytes", lambda self: bytes(content))
        try:
            read_pickle(Path("some"))
        except UserError as error:
            assert len(str(error).splitlines()) == 1


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


@given(VALUES, st.sampled_from([2, 3, 4, 5]))
def test_plain_values_come_back_as_python_reads_them(value: Any, protocol: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "is_file", lambda self: True)
        patch.setattr(Path, "read_bytes", lambda self: pickle.dumps(value, protocol))
        assert read_pickle(Path("some")) == value


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("kind", ["u1", "<i4", ">i4", "<f8", "?"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_come_back_as_they_were(kind: str, order: Any, protocol: int, tmp_path: Path) -> None:
    array = np.asarray(np.arange(24).reshape(2, 3, 4), dtype=kind, order=order)
    (tmp_path / "one").write_bytes(pickle.dumps({"array": array}, protocol))
    restored = read_pickle(tmp_path / "one")["array"]
    assert restored.dtype == array.dtype and np.array_equal(restored, array)
