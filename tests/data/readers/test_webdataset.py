"""WebDataset shards: labels, names, and what is never opened, run or believed."""

import io
import json
import os
import pickle
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from reference import message_of
from streamed import png, stream_of, values, web_shards, write_shard

from robust_student import load_data


class Payload:
    """Unpickling this makes a directory."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_pickles_in_a_shard_are_never_opened(tmp_path: Path) -> None:
    spec, witness = web_shards(tmp_path, (4, 4)), tmp_path / "executed"
    content = pickle.dumps(Payload(witness))
    hostile = {suffix: content for suffix in ("pyd", "pkl", "pickle", "pth", "pt", "npy", "npz", "ten", "mp")}
    for k in range(2):
        write_shard(tmp_path / f"train-{k:02}.tar", list(range(100 + 4 * k, 104 + 4 * k)), **hostile)
    stream = stream_of(load_data(spec))
    assert sorted(values(list(stream.batches(epoch=1, batch_size=4, seed=0)))) == list(range(100, 108))
    assert not witness.exists()


@pytest.mark.parametrize(
    "label", [{"cls": b"owl\n"}, {"cls.txt": b"2"}, {"json": b'{"label": 2}'}, {"json": b'{"label": "owl"}'}]
)
def test_labels_are_numbers_or_names(label: dict[str, bytes], tmp_path: Path) -> None:
    spec = web_shards(tmp_path)
    with tarfile.open(tmp_path / "test-0.tar", "w") as tar:
        for suffix, content in {"PNG": png(3), **label}.items():
            entry = tarfile.TarInfo(f"some/one.{suffix}")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    assert load_data(spec).test.labels.tolist() == [2]


def test_class_numbers_may_do_without_names(tmp_path: Path) -> None:
    spec = web_shards(tmp_path).replace(f"classes={tmp_path}/names.txt", "classes=3")
    assert load_data(spec).classes == ("0", "1", "2")


def test_local_shards_may_be_named_with_asterisks_and_are_counted(tmp_path: Path) -> None:
    spec = web_shards(tmp_path).replace("train-{00..02}", "train-*")
    assert stream_of(load_data(spec)).length == 20
    write_shard(tmp_path / "train-03.tar", [120, 121])
    assert stream_of(load_data(spec)).length == 22


def test_shards_at_an_address_are_read_through_webdataset(tmp_path: Path) -> None:
    spec = web_shards(tmp_path).replace(f"wds:{tmp_path}", f"wds:file:{tmp_path}")
    assert "length=N" in message_of(lambda: load_data(spec))
    stream = stream_of(load_data(spec + ",length=20"))
    assert sorted(values(list(stream.batches(epoch=1, batch_size=5, seed=0)))) == list(range(100, 120))


@pytest.mark.parametrize("url", ["pipe:touch {witness}", "pipe:touch {witness} #.tar", "-", "scp:host/train.tar"])
def test_a_pattern_never_runs_a_command(url: str, tmp_path: Path) -> None:
    witness = tmp_path / "executed"
    spec = web_shards(tmp_path)
    address = url.format(witness=witness)
    options = spec.partition(",")[2]
    testing = spec.replace(f"test={tmp_path}/test-0.tar", f"test={address}")
    assert "cannot read shards from" in message_of(lambda: load_data(f"wds:{address},{options},length=20"))
    assert "cannot read shards from" in message_of(lambda: load_data(testing))
    assert not witness.exists()


def damaged(path: Path, how: str) -> None:
    if how == "cut":
        path.write_bytes(path.read_bytes()[:700])
    elif how == "text":
        path.write_text("no tar file" * 100)
    elif how == "image":
        write_shard(path, [1], png=b"no image")
    elif how == "two images":
        write_shard(path, [1], jpg=png(1))
    elif how == "label":
        write_shard(path, [1], cls=b"emu")
    elif how == "number":
        write_shard(path, [1], cls=b"3")
    elif how == "json":
        write_shard(path, [1], **{"cls": b"\xff"})
    else:
        path.unlink()


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("cut", "cannot read it"),
        ("text", "cannot read it"),
        ("image", "example '0001': cannot read it"),
        ("two images", "example '0001': holds 2 images, not one"),
        ("label", "example '0001': label 'emu' is none of the 3 classes"),
        ("number", "example '0001': label 3 is none of the 3 classes"),
        ("json", "example '0001': its cls file holds no label"),
        ("gone", "no shard"),
    ],
)
@pytest.mark.parametrize("part", ["test-0", "train-01"])
def test_a_damaged_shard_is_named(part: str, how: str, words: str, tmp_path: Path) -> None:
    spec, path = web_shards(tmp_path), tmp_path / f"{part}.tar"
    damaged(path, how)
    message = message_of(lambda: list(stream_of(load_data(spec)).batches(epoch=1, batch_size=1, seed=0)))
    assert words in message and str(path) in message


def test_class_names_are_needed_and_must_be_readable(tmp_path: Path) -> None:
    spec = web_shards(tmp_path)
    without = spec.replace(f",classes={tmp_path}/names.txt", "")
    assert "needs the class names" in message_of(lambda: load_data(without))
    assert "gone.txt" in message_of(lambda: load_data(f"{without},classes={tmp_path}/gone.txt"))


def test_the_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = web_shards(tmp_path)
    monkeypatch.setitem(sys.modules, "webdataset", None)
    assert "pip install 'robust-student[streaming]'" in message_of(lambda: load_data(spec))
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert "pip install 'robust-student[data]'" in message_of(lambda: load_data("hf-stream:some/name,size=5"))


# Hugging Face streams -------------------------------------------------------------------------------------------------


def test_json_lines_are_read_only_where_they_hold_a_label(tmp_path: Path) -> None:
    spec = web_shards(tmp_path)
    with tarfile.open(tmp_path / "test-0.tar", "w") as tar:
        for suffix, content in {"png": png(3), "json": json.dumps({"caption": "x"}).encode()}.items():
            entry = tarfile.TarInfo(f"one.{suffix}")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    assert "its json file holds no label" in message_of(lambda: load_data(spec))
