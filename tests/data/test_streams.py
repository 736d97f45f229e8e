"""Streams through the public API: which examples come when, however many processes share them."""

import io
import json
import os
import pickle
import sys
import tarfile
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from reference import message_of
from torch import Tensor

from robust_student import load, load_data
from robust_student.cli.main import main
from robust_student.core.errors import UserError
from robust_student.core.tensors import UNIT_RANGE
from robust_student.data import examples
from robust_student.data.examples import Data
from robust_student.data.images import Format
from robust_student.data.readers import shards
from robust_student.data.readers.shards import Sample, ShardedStream, Shards, mixed
from robust_student.data.streams import Stream
from robust_student.runtime.files import read_json

SHAPE = (5, 4, 3)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `datasets` prepares stays with the test."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "prepared")


def png(value: int) -> bytes:
    """A file whose every pixel has this value."""
    buffer = io.BytesIO()
    Image.fromarray(np.full(SHAPE, value, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def write_shard(path: Path, values: list[int], **others: bytes) -> Path:
    """A tar file of images with class `value % 3`; `others` go beside each image by their suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for value in values:
            files = {"png": png(value), "cls": str(value % 3).encode()} | others
            for suffix, content in files.items():
                entry = tarfile.TarInfo(f"{value:04}.{suffix}")
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    return path


def web_shards(folder: Path, sizes: tuple[int, ...] = (7, 4, 9)) -> str:
    """A spec of three shards of 20 training examples (values from 100) and one of 4 test examples (values 0 to 3)."""
    start = 100
    for k, size in enumerate(sizes):
        write_shard(folder / f"train-{k:02}.tar", list(range(start, start + size)))
        start += size
    write_shard(folder / "test-0.tar", [0, 1, 2, 3])
    write_shard(folder / "validation-0.tar", [10, 11, 12])
    (folder / "names.txt").write_text("cat\ndog\nowl\n")
    return (
        f"wds:{folder}/train-{{00..{len(sizes) - 1:02}}}.tar,test={folder}/test-0.tar,"
        f"validation={folder}/validation-0.tar,classes={folder}/names.txt,size=5x4,shuffle=6"
    )


def hub_shards(folder: Path) -> str:
    """The same examples as a folder of Parquet files."""
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog", "owl"])})
    parts = {
        "train-00000": range(100, 107),
        "train-00001": range(107, 111),
        "train-00002": range(111, 120),
        "test-00000": range(4),
        "validation-00000": range(10, 13),
    }
    folder.mkdir()
    for name, values in parts.items():
        rows = {"image": [{"bytes": png(v), "path": None} for v in values], "label": [v % 3 for v in values]}
        datasets.Dataset.from_dict(rows, features=features).to_parquet(folder / f"{name}.parquet")
    return f"hf-stream:{folder},size=5x4,shuffle=6,length=20"


@pytest.fixture(params=["wds", "hf-stream"])
def spec(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Both kinds of streams, over the same examples in the same shards."""
    return web_shards(tmp_path) if request.param == "wds" else hub_shards(tmp_path / "hub")


def stream_of(data: Data) -> Stream:
    assert isinstance(data.train, Stream)
    return data.train


Batches = list[tuple[Tensor, Tensor, Tensor]]


def values(batches: Batches) -> list[int]:
    """The values of the examples, in the order in which they came."""
    return [int(image.unique()) for inputs, _, _ in batches for image in inputs]


# What every stream owes -----------------------------------------------------------------------------------------------


def test_a_stream_gives_every_example_once_with_its_label_and_number(spec: str) -> None:
    data = load_data(spec)
    stream = stream_of(data)
    assert (stream.length, len(stream), stream.shape, data.shape) == (20, 20, (3, 5, 4), (3, 5, 4))
    assert data.classes == ("cat", "dog", "owl") and data.input_range == UNIT_RANGE
    known: dict[int, int] = {}
    for epoch in (1, 2):
        found = list(stream.batches(epoch=epoch, batch_size=4, seed=0))
        assert len(found) == 5 and all(inputs.shape == (4, 3, 5, 4) for inputs, _, _ in found)
        assert all(
            inputs.dtype == torch.uint8 and labels.dtype == ids.dtype == torch.int64 for inputs, labels, ids in found
        )
        seen = values(found)
        assert sorted(seen) == list(range(100, 120))
        assert [value % 3 for value in seen] == [label for _, labels, _ in found for label in labels.tolist()]
        ids = [number for _, _, ids in found for number in ids.tolist()]
        assert len(set(ids)) == 20
        assert all(known.setdefault(value, number) == number for value, number in zip(seen, ids, strict=True))


def test_test_and_validation_parts_are_in_memory(spec: str) -> None:
    data = load_data(spec)
    assert data.validation is not None
    assert [int(image.unique()) for image in data.test.inputs] == [0, 1, 2, 3]
    assert data.test.labels.tolist() == [0, 1, 2, 0]
    assert [int(image.unique()) for image in data.validation.inputs] == [10, 11, 12]


def test_the_order_depends_on_epoch_and_seed_alone(spec: str) -> None:
    one, other = stream_of(load_data(spec)), stream_of(load_data(spec, workers=3))
    orders = {
        (epoch, seed): values(list(one.batches(epoch=epoch, batch_size=5, seed=seed)))
        for epoch in (1, 2)
        for seed in (0, 1)
    }
    assert len({tuple(order) for order in orders.values()}) == 4
    for (epoch, seed), order in orders.items():
        assert values(list(other.batches(epoch=epoch, batch_size=5, seed=seed))) == order


@pytest.mark.parametrize(("batch_size", "world"), [(1, 1), (3, 2), (2, 3), (4, 4), (20, 1), (21, 1)])
def test_processes_share_each_step_of_one_process_without_duplicates(spec: str, batch_size: int, world: int) -> None:
    stream = stream_of(load_data(spec))
    alone = list(stream.batches(epoch=3, batch_size=batch_size * world, seed=7))
    shared = [
        list(stream.batches(epoch=3, batch_size=batch_size, seed=7, rank=rank, world=world)) for rank in range(world)
    ]
    assert len(alone) == 20 // (batch_size * world) and all(len(part) == len(alone) for part in shared)
    for step, (inputs, labels, numbers) in enumerate(alone):
        together = [torch.cat([part[step][k] for part in shared]) for k in range(3)]
        assert torch.equal(together[0], inputs)
        assert torch.equal(together[1], labels) and torch.equal(together[2], numbers)


@pytest.mark.parametrize("skip", [0, 1, 4, 5, 9])
def test_skipping_resumes_exactly(spec: str, skip: int) -> None:
    stream = stream_of(load_data(spec))
    whole = list(stream.batches(epoch=2, batch_size=2, seed=1, rank=1, world=2))
    rest = list(stream.batches(epoch=2, batch_size=2, seed=1, skip=skip, rank=1, world=2))
    assert values(rest) == values(whole[skip:])


def test_an_epoch_may_be_left_early(spec: str) -> None:
    stream = stream_of(load_data(spec))
    first = list(islice(stream.batches(epoch=1, batch_size=3, seed=0), 2))
    assert values(first) == values(list(stream.batches(epoch=1, batch_size=3, seed=0))[:2])


def test_statistics_come_from_the_start_of_an_epoch(spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = load_data(spec)
    mean, std = data.statistics()
    pixels = np.arange(100, 120) / 255
    np.testing.assert_allclose(mean.flatten().numpy(), [pixels.mean()] * 3, rtol=1e-5)
    np.testing.assert_allclose(std.flatten().numpy(), [pixels.std()] * 3, rtol=1e-5)
    monkeypatch.setattr(examples, "STATISTICS_EXAMPLES", 8)
    monkeypatch.setattr(examples, "_BATCH", 4)
    some = np.array(values(list(stream_of(data).batches(epoch=1, batch_size=4, seed=0))[:2])) / 255
    np.testing.assert_allclose(data.statistics()[0].flatten().numpy(), [some.mean()] * 3, rtol=1e-5)


def test_a_stream_is_resized_to_what_a_model_expects(spec: str) -> None:
    stream = stream_of(load_data(spec, shape=(1, 8, 9)))
    (batch,) = stream.batches(epoch=1, batch_size=20, seed=0)
    assert batch[0].shape == (20, 1, 8, 9) and sorted(values([batch])) == list(range(100, 120))


def test_what_needs_all_examples_at_once_says_so(spec: str) -> None:
    assert "is a stream" in message_of(lambda: load_data(spec).training_examples)


def test_without_validation_training_examples_are_set_aside(spec: str, tmp_path: Path) -> None:
    if spec.startswith("wds"):
        spec = spec.replace(f"validation={tmp_path}/validation-0.tar,", "")
    else:
        (tmp_path / "hub" / "validation-00000.parquet").unlink()
    data = load_data(spec)
    assert data.validation is not None and len(data.validation) == 2 and stream_of(data).length == 18
    aside = {int(image.unique()) for image in data.validation.inputs}
    seen = values(list(stream_of(data).batches(epoch=1, batch_size=6, seed=0)))
    assert sorted([*seen, *aside]) == list(range(100, 120))
    again = load_data(spec).validation
    assert again is not None and torch.equal(again.inputs, data.validation.inputs)


def test_without_a_test_part_validation_is_the_test_set_and_without_either_it_is_refused(
    spec: str, tmp_path: Path
) -> None:
    if spec.startswith("wds"):
        spec = spec.replace(f"test={tmp_path}/test-0.tar,", "")
    else:
        (tmp_path / "hub" / "test-00000.parquet").unlink()
    data = load_data(spec)
    assert [int(image.unique()) for image in data.test.inputs] == [10, 11, 12]
    assert data.validation is not None and len(data.validation) == 2
    if spec.startswith("wds"):
        spec = spec.replace(f"validation={tmp_path}/validation-0.tar,", "")
    else:
        (tmp_path / "hub" / "validation-00000.parquet").unlink()
    assert "a stream needs a test part" in message_of(lambda: load_data(spec))


def test_at_most_so_many_examples_of_a_held_out_part_are_read(spec: str) -> None:
    data = load_data(f"{spec},held_out=2")
    assert data.validation is not None and len(data.test) == len(data.validation) == 2
    assert torch.equal(data.test.inputs, load_data(f"{spec},held_out=2").test.inputs)


def test_shards_with_fewer_examples_than_stated_are_named(spec: str) -> None:
    spec = spec.replace(",length=20", "") + ",length=21"
    stream = stream_of(load_data(spec))
    with pytest.raises(UserError, match="hold 20 training examples, not 21"):
        list(stream.batches(epoch=1, batch_size=3, seed=0))


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("length=none", "length 'none' is not a positive whole number"),
        ("shuffle=0", "shuffle '0' is not a positive"),
        ("held_out=-1", "held_out '-1' is not a positive"),
        ("channels=2", "channels=2 is neither 1"),
        ("size=5x", "size '5x' is neither"),
        ("size=0", "size '0' is neither"),
        ("sise=5", "unknown option 'sise'; did you mean 'size'"),
    ],
)
def test_bad_options_are_refused(spec: str, option: str, words: str) -> None:
    name, _, _ = option.partition("=")
    kept = ",".join(part for part in spec.split(",") if not part.startswith(f"{name}="))
    assert words in message_of(lambda: load_data(f"{kept},{option}"))


def test_a_size_must_come_from_somewhere(spec: str) -> None:
    spec = spec.replace(",size=5x4", "")
    assert "say the size" in message_of(lambda: load_data(spec))
    assert load_data(spec, image_size=7).shape == (3, 7, 7)
    assert load_data(spec + ",channels=1", image_size=(7, 6)).shape == (1, 7, 6)


def test_the_same_commands_train_teach_and_evaluate_on_a_stream(spec: str, tmp_path: Path) -> None:
    runs, data = tmp_path / "runs", ["--data", spec, "--epochs", "2", "--batch-size", "8"]
    main(["train", *data, "--model", "linear", "--output", str(runs / "teacher")])
    main(["distill", *data, "--teacher", str(runs / "teacher"), "--model", "mlp:4", "--output", str(runs / "student")])
    few = ["--autoattack", "none", "--pgd-steps", "1"]
    models = [str(runs / name) for name in ("teacher", "student")]
    main(["evaluate", *models, "--data", spec, "--output", str(runs / "evaluation"), *few])
    assert {record["model"] for record in read_json(runs / "evaluation" / "summary.json")} == {"teacher", "student"}
    student = load(runs / "student")
    assert student.card.classes == ("cat", "dog", "owl") and [e["epoch"] for e in student.history] == [1, 2]


# The order ------------------------------------------------------------------------------------------------------------


class Counted(Shards):
    """Shards of the given sizes; an example's label is its position in the whole set."""

    def __init__(self, sizes: list[int]) -> None:
        self.sizes, self.reads = sizes, list[int]()

    def __len__(self) -> int:
        return len(self.sizes)

    def read(self, shard: int) -> Iterator[Sample]:
        self.reads.append(shard)
        start = sum(self.sizes[:shard])
        return iter([Sample(png(0), start + k, "somewhere") for k in range(self.sizes[shard])])


@given(st.lists(st.integers(0, 9), min_size=1, max_size=6), st.integers(1, 40), st.integers(1, 5), st.integers(0, 9))
def test_mixing_gives_every_example_once(sizes: list[int], shuffle: int, epoch: int, seed: int) -> None:
    found = list(mixed(Counted(sizes), epoch, seed, shuffle))
    assert sorted(sample.label for _, sample in found) == list(range(sum(sizes)))
    assert found == list(mixed(Counted(sizes), epoch, seed, shuffle))
    left_out = frozenset(number for number, _ in found[::2])
    rest = [number for number, _ in mixed(Counted(sizes), epoch, seed, shuffle, left_out)]
    assert sorted(rest) == sorted(number for number, _ in found[1::2])


def test_every_place_of_an_epoch_is_as_likely_for_every_example_of_a_shard() -> None:
    first = [next(mixed(Counted([6]), epoch, 0, 6))[1].label for epoch in range(1200)]
    assert all(150 < first.count(label) < 250 for label in range(6))


def test_a_buffer_reads_no_further_than_it_must() -> None:
    counted = Counted([5, 5, 5, 5])
    stream = mixed(counted, 1, 0, 4)
    next(stream)
    assert len(counted.reads) == 1


def test_only_its_own_examples_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = list[str]()

    def decode(image: bytes, *, form: Format, place: str) -> Any:
        decoded.append(place)
        return np.zeros(form, np.uint8)

    monkeypatch.setattr(shards, "decode", decode)
    stream = ShardedStream(Counted([12]), Format(3, 5, 4), 12)
    assert len(list(stream.batches(epoch=1, batch_size=2, seed=0, skip=1, rank=1, world=2))) == 2
    assert len(decoded) == 4


# WebDataset shards ----------------------------------------------------------------------------------------------------


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
    assert "say the class names" in message_of(lambda: load_data(without))
    assert "gone.txt" in message_of(lambda: load_data(f"{without},classes={tmp_path}/gone.txt"))


def test_the_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = web_shards(tmp_path)
    monkeypatch.setattr("robust_student.data.readers.webdataset.find_spec", lambda name: None)
    assert "pip install 'robust-student[streaming]'" in message_of(lambda: load_data(spec))
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert "pip install 'robust-student[data]'" in message_of(lambda: load_data("hf-stream:some/name,size=5"))


# Hugging Face streams -------------------------------------------------------------------------------------------------


def test_a_saved_dataset_is_streamed_with_its_own_length(tmp_path: Path) -> None:
    hub_shards(tmp_path / "hub")
    saved = datasets.load_dataset(str(tmp_path / "hub"))
    saved.save_to_disk(str(tmp_path / "saved"))
    stream = stream_of(load_data(f"hf-stream:{tmp_path / 'saved'},size=5x4"))
    assert stream.length == 20
    assert sorted(values(list(stream.batches(epoch=1, batch_size=5, seed=0)))) == list(range(100, 120))


def test_a_dataset_without_length_or_class_names_asks_for_them(tmp_path: Path) -> None:
    spec = hub_shards(tmp_path / "hub").replace(",length=20", "")
    assert "say so with length=N" in message_of(lambda: load_data(spec))
    for path in (tmp_path / "hub").glob("*.parquet"):
        dataset = datasets.Dataset.from_parquet(str(path)).cast_column("label", datasets.Value("int64"))
        dataset.to_parquet(path)
    assert "say them with classes=FILE" in message_of(lambda: load_data(f"{spec},length=20"))
    assert load_data(f"{spec},length=20,classes=3").classes == ("0", "1", "2")


def test_a_damaged_file_of_a_stream_is_named(tmp_path: Path) -> None:
    spec = hub_shards(tmp_path / "hub")
    path = tmp_path / "hub" / "train-00001.parquet"
    data = load_data(spec)
    path.write_bytes(path.read_bytes()[:100])
    message = message_of(lambda: list(stream_of(data).batches(epoch=1, batch_size=2, seed=0)))
    assert "train shard 1" in message and "cannot read it" in message


def test_json_lines_are_read_only_where_they_hold_a_label(tmp_path: Path) -> None:
    spec = web_shards(tmp_path)
    with tarfile.open(tmp_path / "test-0.tar", "w") as tar:
        for suffix, content in {"png": png(3), "json": json.dumps({"caption": "x"}).encode()}.items():
            entry = tarfile.TarInfo(f"one.{suffix}")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    assert "its json file holds no label" in message_of(lambda: load_data(spec))
