"""Decoded pixels on disk: what comes back is what was decoded, whatever happened to the file in between."""

import hashlib
import os
import pickle
import resource
import shutil
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from reference import message_of
from torch.utils.data import DataLoader

from robust_student import TrainingSettings, train
from robust_student.core.errors import UserError
from robust_student.core.tensors import Pixels
from robust_student.data import cache as cache_module
from robust_student.data import decoding
from robust_student.data.cache import Stored, cache_directory, remember, store
from robust_student.data.readers import image_folder
from robust_student.data.readers.load import Data, load_data


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache directory that every set of more than 100 bytes goes to, in blocks of 64 bytes."""
    folder = tmp_path / "cache"
    monkeypatch.setenv(cache_module.VARIABLE, str(folder))
    monkeypatch.setattr(cache_module, "_IN_MEMORY", 100)
    monkeypatch.setattr(cache_module, "_BLOCK", 64)
    monkeypatch.setattr(decoding, "_BATCH", 3)
    return folder


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Seven training and two test images per class, 5x4 pixels in colour."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 7), ("test", 2)):
        for name in ("cat", "dog"):
            folder = tmp_path / "photos" / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                Image.fromarray(rng.integers(0, 256, (5, 4, 3)).astype(np.uint8)).save(folder / f"{number}.png")
    return tmp_path / "photos"


def pixels_of(data: Data) -> torch.Tensor:
    return data.training_examples.inputs


def expected(photos: Path) -> torch.Tensor:
    """The training pixels, file by file."""
    paths = [photos / "train" / name / f"{number}.png" for name in ("cat", "dog") for number in range(7)]
    return torch.from_numpy(np.stack([np.array(Image.open(path)) for path in paths])).permute(0, 3, 1, 2)


def files(folder: Path, suffix: str) -> list[Path]:
    return sorted(folder.glob(f"*{suffix}"))


# Folders of images ----------------------------------------------------------------------------------------------------


def test_a_small_folder_stays_in_memory(photos: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "_IN_MEMORY", 14 * 3 * 5 * 4)
    train = load_data(f"folder:{photos}").training_examples
    assert not train.mapped and torch.equal(train.inputs, expected(photos)) and not cache.exists()


def test_a_large_folder_is_mapped_and_decoded_only_once(
    photos: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load_data(f"folder:{photos}").training_examples
    assert first.mapped and torch.equal(first.inputs, expected(photos))
    assert first.labels.tolist() == [0] * 7 + [1] * 7
    monkeypatch.setattr(decoding, "decode", None)
    again = load_data(f"folder:{photos}").training_examples
    assert again.mapped and torch.equal(again.inputs, first.inputs) and again.digest() == first.digest()
    assert len(files(cache, ".pixels")) == 2  # training and test


def test_the_pixels_do_not_depend_on_the_number_of_workers(
    photos: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding, "ALONE", 0)
    contents = set()
    for workers in (1, 2, 3):
        monkeypatch.setenv(cache_module.VARIABLE, str(cache / str(workers)))
        train = load_data(f"folder:{photos}", workers=workers).training_examples
        assert train.mapped and torch.equal(train.inputs, expected(photos))
        contents.add((train.digest(), *(path.read_bytes() for path in files(cache / str(workers), ".pixels"))))
    assert len(contents) == 1


@pytest.mark.parametrize("change", ["content", "time", "size", "channels", "name"])
def test_whatever_the_pixels_depend_on_makes_another_file(change: str, photos: Path, cache: Path) -> None:
    load_data(f"folder:{photos}")
    path = photos / "train" / "cat" / "3.png"
    shape = {"size": (3, 7, 6), "channels": (1, 5, 4)}.get(change)
    if change == "content":
        Image.fromarray(np.zeros((5, 4, 3), np.uint8)).save(path)
    elif change == "time":
        os.utime(path, ns=(0, 0))
    elif change == "name":
        path.rename(path.with_name("33.png"))
    train = load_data(f"folder:{photos}", shape=shape).training_examples
    assert len(files(cache, ".pixels")) >= 3 and train.shape == (shape or (3, 5, 4))
    if change in ("content", "time"):
        assert torch.equal(train.inputs, expected(photos))


@pytest.mark.parametrize(
    "damage", ["first byte", "last byte", "short", "long", "no checksums", "bad checksums", "gone"]
)
def test_a_damaged_file_is_made_anew(damage: str, photos: Path, cache: Path) -> None:
    load_data(f"folder:{photos}")
    path = max(files(cache, ".pixels"), key=lambda file: file.stat().st_size)
    content = path.read_bytes()
    (cache / f"{path.stem}.killed.partial").write_bytes(content[:10])
    if damage == "first byte":
        path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    elif damage == "last byte":
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "short":
        path.write_bytes(content[:-1])
    elif damage == "long":
        path.write_bytes(content + b"\0")
    elif damage == "no checksums":
        path.with_suffix(".json").unlink()
    elif damage == "bad checksums":
        path.with_suffix(".json").write_text('{"checksums": 3}')
    else:
        path.unlink()
    assert torch.equal(pixels_of(load_data(f"folder:{photos}")), expected(photos))
    assert path.read_bytes() == content and not files(cache, ".partial")


@pytest.mark.parametrize("workers", [1, 2])
def test_an_unreadable_image_is_named_and_leaves_nothing(
    workers: int, photos: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding, "ALONE", 0)
    path = photos / "train" / "dog" / "4.png"
    path.write_bytes(path.read_bytes()[:60])
    message = message_of(lambda: load_data(f"folder:{photos}", shape=(3, 5, 4), workers=workers))
    assert str(path) in message
    assert not files(cache, ".partial") and not files(cache, ".pixels") and not files(cache, ".json")


def test_an_image_that_vanishes_is_named(photos: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = photos / "train" / "dog" / "4.png"
    listed = image_folder._list_images

    def then_gone(root: Path) -> image_folder.Listing:
        files = listed(root)
        path.unlink(missing_ok=True)
        return files

    monkeypatch.setattr(image_folder, "_list_images", then_gone)
    assert str(path) in message_of(lambda: load_data(f"folder:{photos}", shape=(3, 5, 4)))


def test_an_image_that_vanishes_while_others_are_decoded_is_named(
    photos: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = photos / "train" / "dog" / "4.png"
    stamped = cache_module.stamps

    def then_gone(paths: Iterable[Path]) -> list[tuple[str, int, int]]:
        stamps = stamped(paths)
        path.unlink(missing_ok=True)
        return stamps

    monkeypatch.setattr("robust_student.data.readers.image_folder.stamps", then_gone)
    assert f"{path}: cannot read it" in message_of(lambda: load_data(f"folder:{photos}", shape=(3, 5, 4)))
    assert not files(cache, ".partial") and not files(cache, ".pixels")


def test_the_format_of_many_images_is_remembered(photos: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_folder, "ALONE", 0)
    first = load_data(f"folder:{photos}").shape
    monkeypatch.setattr(decoding, "read_header", None)
    assert load_data(f"folder:{photos}").shape == first == (3, 5, 4)


def test_many_small_images_are_kept_in_a_file_and_held_in_memory(
    photos: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_module, "_IN_MEMORY", 10**9)
    monkeypatch.setattr(cache_module, "_KEPT", 4)
    for _ in range(2):
        train = load_data(f"folder:{photos}").training_examples
        assert not train.mapped and torch.equal(train.inputs, expected(photos))
        assert len(files(cache, ".pixels")) == 2
        monkeypatch.setattr(decoding, "decode", None)


def test_what_fits_into_memory_needs_no_cache(photos: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "_IN_MEMORY", 10**9)
    monkeypatch.setattr(cache_module, "_KEPT", 4)
    with_cache = load_data(f"folder:{photos}").training_examples
    shutil.rmtree(cache)
    cache.write_text("a file where the directory should be")
    without = load_data(f"folder:{photos}").training_examples
    assert torch.equal(without.inputs, expected(photos)) and without.digest() == with_cache.digest()


def test_training_on_mapped_images_is_training_on_images_in_memory(
    photos: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = TrainingSettings(epochs=2, batch_size=4, validation_fraction=0.2)
    weights = []
    for limit in (10**9, 100):
        monkeypatch.setattr(cache_module, "_IN_MEMORY", limit)
        data = load_data(f"folder:{photos}")
        assert data.training_examples.mapped == (limit == 100)
        weights.append(train("mlp:4", data, settings).model.state_dict())
    for name, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][name], rtol=1e-5, atol=1e-6)


# The store itself -----------------------------------------------------------------------------------------------------


def rows(count: int = 40, each: int = 10) -> Pixels:
    return np.random.default_rng(0).integers(0, 256, (count, each)).astype(np.uint8)


def in_blocks(pixels: Pixels, size: int = 7) -> Iterator[Pixels]:
    return (pixels[start : start + size] for start in range(0, len(pixels), size))


@given(st.integers(1, 90), st.integers(1, 40), st.integers(1, 100))
def test_checksums_are_those_of_the_blocks_however_the_rows_arrive(count: int, size: int, block: int) -> None:
    pixels = rows(count, 3)
    data = pixels.tobytes()
    with pytest.MonkeyPatch.context() as patch, Path(os.devnull).open("r+b") as file:
        patch.setattr(cache_module, "_BLOCK", block)
        patch.setattr(os, "fsync", lambda handle: None)
        checksums = cache_module._write(file, in_blocks(pixels, size), Path(), len(data))
    assert checksums == [hashlib.sha256(data[k : k + block]).hexdigest() for k in range(0, len(data), block)]


def test_without_a_key_the_file_has_no_name(cache: Path) -> None:
    pixels = rows()
    first = store(pixels.shape, lambda: in_blocks(pixels), None)
    assert first.mapped and np.array_equal(first.inputs.numpy(), pixels) and list(cache.iterdir()) == []
    assert first.content == store(pixels.shape, lambda: in_blocks(pixels), {"some": "key"}).content


def test_writing_into_mapped_pixels_leaves_the_file_alone(cache: Path) -> None:
    pixels = rows()
    for _ in range(2):
        stored = store(pixels.shape, lambda: in_blocks(pixels), {"some": "key"})
        assert np.array_equal(stored.inputs.numpy(), pixels)
        stored.inputs[:] = 0


def test_a_full_disk_gives_one_line_and_leaves_nothing_half_written(cache: Path) -> None:
    pixels = rows(600, 1000)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, limits[1]))
        message = message_of(lambda: store(pixels.shape, lambda: in_blocks(pixels), {"some": "key"}))
        other = message_of(lambda: store(pixels.shape, lambda: in_blocks(pixels), None))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "disk full" in message and cache_module.VARIABLE in message and "disk full" in other
    assert not files(cache, ".partial") and not files(cache, ".pixels") and not files(cache, ".json")
    stored = store(pixels.shape, lambda: in_blocks(pixels), {"some": "key"})
    assert np.array_equal(stored.inputs.numpy(), pixels)


def test_a_cache_that_cannot_be_written_gives_one_line(cache: Path) -> None:
    cache.write_text("a file where the directory should be")
    pixels = rows()
    message = message_of(lambda: store(pixels.shape, lambda: in_blocks(pixels), {"some": "key"}))
    assert str(cache) in message and cache_module.VARIABLE in message


def test_trouble_with_the_source_is_not_blamed_on_the_cache(cache: Path) -> None:
    def broken() -> Iterator[Pixels]:
        yield rows(3)
        raise OSError("the source is gone")

    with pytest.raises(OSError, match="the source is gone"):
        store((40, 10), broken, {"some": "key"})
    assert not files(cache, ".partial") and not files(cache, ".pixels")


def test_an_interrupted_file_is_not_left_behind(cache: Path) -> None:
    def interrupted() -> Iterator[Pixels]:
        yield rows(3)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store((40, 10), interrupted, {"some": "key"})
    assert not files(cache, ".partial") and not files(cache, ".pixels")


def test_two_that_want_the_same_file_make_it_once(cache: Path) -> None:
    pixels, made, stored = rows(), list[int](), list[Stored]()
    both = threading.Barrier(2)

    def blocks() -> Iterator[Pixels]:
        made.append(1)
        return in_blocks(pixels)

    def work() -> None:
        both.wait()
        stored.append(store(pixels.shape, blocks, {"some": "key"}))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1 and all(np.array_equal(one.inputs.numpy(), pixels) for one in stored)


def test_of_a_very_large_file_evenly_spread_blocks_are_checked(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = rows(64, 10)  # ten blocks of 64 bytes
    store(pixels.shape, lambda: in_blocks(pixels), {"some": "key"})
    monkeypatch.setattr(cache_module, "_CHECKED_BYTES", 320)
    (path,) = files(cache, ".pixels")
    content = bytearray(path.read_bytes())
    for block, noticed in ((1, False), (2, True)):
        changed = content.copy()
        changed[64 * block] ^= 1
        path.write_bytes(changed)
        stored = store(pixels.shape, lambda: in_blocks(pixels), {"some": "key"})
        assert np.array_equal(stored.inputs.numpy(), pixels) == noticed


def test_the_cache_directory_is_where_the_user_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(cache_module.VARIABLE, str(tmp_path / "mine"))
    assert cache_directory() == tmp_path / "mine"
    monkeypatch.delenv(cache_module.VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_directory() == tmp_path / "xdg" / "robust-student"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_directory() == tmp_path / ".cache" / "robust-student"


def test_a_remembered_value_is_computed_once_per_key(cache: Path) -> None:
    calls: list[int] = []

    def compute() -> list[int]:
        calls.append(1)
        return [3, 4]

    assert [remember({"a": 1}, compute) for _ in range(3)] == [[3, 4]] * 3 and len(calls) == 1
    assert remember({"a": 2}, compute) == [3, 4] and len(calls) == 2
    for path in files(cache, ".json"):
        path.write_text("{")
    assert remember({"a": 1}, compute) == [3, 4] and len(calls) == 3
    assert sorted(path.read_text() == "{" for path in files(cache, ".json")) == [False, True]


def test_a_value_is_computed_where_nothing_can_be_remembered(cache: Path) -> None:
    cache.write_text("a file where the directory should be")
    assert remember({"a": 1}, lambda: 5) == 5


def test_workers_can_be_sent_their_work_where_processes_do_not_fork(
    photos: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = list[Any]()

    def watched(work: Any, **options: Any) -> Any:
        sent.append(pickle.loads(pickle.dumps(work)))
        return DataLoader(work, **options | {"num_workers": 0})

    monkeypatch.setattr(decoding, "ALONE", 0)
    monkeypatch.setattr(decoding, "DataLoader", watched)
    load_data(f"folder:{photos}", workers=2)
    looked, decoded, _ = sent
    assert looked[0][0].size == (5, 4) and np.array_equal(decoded[4][0], expected(photos)[12].numpy())


def test_a_worker_that_dies_gives_one_line(photos: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "ALONE", 0)
    monkeypatch.setattr(decoding, "decode", lambda *_, **__: os._exit(9))
    with pytest.raises(UserError, match="a process that reads examples ended"):
        load_data(f"folder:{photos}", shape=(3, 5, 4), workers=2)
