"""Folders of images: channels, sizes, classes, what is held out, and what is refused."""

import hashlib
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from data_sources import fill, only_value, refusal, save_image
from hypothesis import given
from hypothesis import strategies as st

from robust_student.data.readers.load import Examples, load_data, stratified_sample
from robust_student.data.samples import held_out_by_name

Array = npt.NDArray[Any]


@pytest.mark.parametrize(("colour", "channels"), [(False, 1), (True, 3)])
def test_folder_images_are_grey_only_if_every_image_is(colour: bool, channels: int, tmp_path: Path) -> None:
    fill(tmp_path)
    if colour:
        save_image(tmp_path / "dog" / "red.png", np.full((6, 6, 3), (200, 0, 0), np.uint8))
    data = load_data(f"folder:{tmp_path}")
    assert data.shape == (channels, 6, 6) and data.classes == ("cat", "dog")


def test_folder_pixels_and_labels_are_those_of_the_files(tmp_path: Path) -> None:
    data = load_data(f"folder:{fill(tmp_path)}")
    values = {
        (only_value(image), label)
        for part in (data.training_examples, data.test)
        for image, label in zip(part.inputs, part.labels.tolist(), strict=True)
    }
    assert values == {(20 * k + i, k) for k in range(2) for i in range(5)}


def names_in(examples: Examples) -> set[int]:
    """What `fill` writes into image i of class k is 20 k + i: its name, so to speak."""
    return {only_value(image) for image in examples.inputs}


def test_the_fifth_held_out_of_a_folder_depends_on_the_names_alone(tmp_path: Path) -> None:
    """The oracle is the sentence of the documentation, written out."""
    data = load_data(f"folder:{fill(tmp_path, count=20)}")
    held_out = {
        20 * k + i
        for k, name in enumerate(("cat", "dog"))
        for i in range(20)
        if int(hashlib.sha256(f"{name}/{i}.png".encode()).hexdigest()[:16], 16) / 2**64 < 0.2
    }
    assert names_in(data.test) == held_out and 3 <= len(held_out) <= 13
    assert names_in(data.training_examples) == set(range(40)) - held_out


def test_added_and_removed_images_move_no_other_between_training_and_test(tmp_path: Path) -> None:
    before = load_data(f"folder:{fill(tmp_path, count=20)}")
    for name in ("cat", "dog"):
        for i in range(300):
            save_image(tmp_path / name / f"more-{i}.png", np.full((6, 6), 255, np.uint8))
    (tmp_path / "cat" / "0.png").unlink()
    after = load_data(f"folder:{tmp_path}")
    assert names_in(after.test) - {255} == names_in(before.test) - {0}
    assert names_in(after.training_examples) - {255} == names_in(before.training_examples) - {0}
    assert 0.15 < len(after.test) / 639 < 0.25


def test_a_folder_too_small_to_hold_a_fifth_out_is_refused(tmp_path: Path) -> None:
    held_out = next(i for i in range(99) if held_out_by_name(f"cat/{i}.png"))
    number = next(i for i in range(99) if not held_out_by_name(f"dog/{i}.png"))
    save_image(tmp_path / "cat" / f"{held_out}.png", np.zeros((6, 6), np.uint8))
    save_image(tmp_path / "dog" / f"{number}.png", np.zeros((6, 6), np.uint8))
    assert "all 1 images of class 'cat' fall into the fifth" in refusal(f"folder:{tmp_path}")
    (tmp_path / "cat" / f"{held_out}.png").rename(tmp_path / "cat" / "x.png")
    assert not held_out_by_name("cat/x.png")
    assert "too few images to hold out a fifth" in refusal(f"folder:{tmp_path}")


def test_colour_images_keep_their_channel_order(tmp_path: Path) -> None:
    for name in ("a", "b"):
        for i in range(3):
            save_image(tmp_path / name / f"{i}.png", np.full((4, 5, 3), (10, 20, 30), np.uint8))
    data = load_data(f"folder:{tmp_path}")
    assert data.shape == (3, 4, 5) and data.training_examples.inputs[0, :, 0, 0].tolist() == [10, 20, 30]


@pytest.mark.parametrize(("side", "expected"), [(6, 6), (64, 64), (65, 32), (None, 32)])
def test_a_common_size_is_kept_up_to_64_pixels_and_anything_else_becomes_32(
    side: int | None, expected: int, tmp_path: Path
) -> None:
    fill(tmp_path, side=side or 6)
    if side is None:
        save_image(tmp_path / "dog" / "other.png", np.zeros((6, 7), np.uint8))
    assert load_data(f"folder:{tmp_path}").shape == (1, expected, expected)


def test_image_size_resizes_without_changing_a_plain_area(tmp_path: Path) -> None:
    data = load_data(f"folder:{fill(tmp_path)}", image_size=9)
    assert data.shape == (1, 9, 9)
    assert {only_value(image) for image in data.training_examples.inputs} <= {
        20 * k + i for k in range(2) for i in range(5)
    }


def test_image_size_may_be_a_height_and_a_width(tmp_path: Path) -> None:
    assert load_data(f"folder:{fill(tmp_path)}", image_size=(9, 7)).shape == (1, 9, 7)
    assert "image_size 3 is not between 4 and" in refusal(f"folder:{tmp_path}", image_size=(9, 3))


def test_the_shape_a_model_expects_decides_channels_and_size(tmp_path: Path) -> None:
    fill(tmp_path)
    assert load_data(f"folder:{tmp_path}", shape=(3, 8, 10)).shape == (3, 8, 10)
    assert "(64,)" in refusal(f"folder:{tmp_path}", shape=(64,))


def test_sixteen_bit_images_are_scaled_not_clipped(tmp_path: Path) -> None:
    values = {"a": 0, "b": 32896, "c": 65535}
    for name, value in values.items():
        for i in range(3):
            save_image(tmp_path / name / f"{i}.png", np.full((4, 4), value, np.uint16))
    train = load_data(f"folder:{tmp_path}").training_examples
    by_class = {k: only_value(train.inputs[train.labels == k]) for k in range(3)}
    assert by_class == {0: 0, 1: 128, 2: 255}


def test_train_and_test_folders_are_kept_apart(tmp_path: Path) -> None:
    fill(tmp_path / "train", count=4)
    fill(tmp_path / "test", ["dog"], count=3)
    data = load_data(f"folder:{tmp_path}")
    assert (len(data.train), len(data.test)) == (8, 3)
    assert data.classes == ("cat", "dog") and data.test.labels.tolist() == [1, 1, 1]


@pytest.mark.parametrize("name", ["validation", "val", "valid"])
def test_a_validation_folder_is_kept_apart_and_is_the_test_set_where_there_is_none(name: str, tmp_path: Path) -> None:
    fill(tmp_path / "train", count=4)
    fill(tmp_path / name, count=2)
    data = load_data(f"folder:{tmp_path}")
    assert (len(data.train), len(data.test), data.validation) == (8, 4, None)
    fill(tmp_path / "test", ["dog"], count=3)
    data = load_data(f"folder:{tmp_path}")
    assert data.validation is not None
    assert (len(data.train), len(data.test), len(data.validation)) == (8, 3, 4)
    assert data.validation.labels.tolist() == [0, 0, 1, 1] and names_in(data.validation) == {0, 1, 20, 21}


def test_a_test_class_without_training_images_is_refused_by_name(tmp_path: Path) -> None:
    fill(tmp_path / "train")
    fill(tmp_path / "test", ["cat", "emu"])
    assert "'emu'" in refusal(f"folder:{tmp_path}")


def test_a_class_folder_without_images_is_refused_by_name(tmp_path: Path) -> None:
    fill(tmp_path)
    (tmp_path / "nothing").mkdir()
    (tmp_path / "nothing" / "readme.txt").write_text("no image")
    assert "nothing" in refusal(f"folder:{tmp_path}")


def test_a_single_class_is_refused(tmp_path: Path) -> None:
    assert "at least two" in refusal(f"folder:{fill(tmp_path, ['cat'])}")


@pytest.mark.parametrize("length", [0, 8, 60])
def test_an_unreadable_image_is_named(length: int, tmp_path: Path) -> None:
    path = fill(tmp_path) / "dog" / "3.png"
    save_image(path, np.random.default_rng(0).integers(0, 256, (6, 6)).astype(np.uint8))
    path.write_bytes(path.read_bytes()[:length])
    assert str(path) in refusal(f"folder:{tmp_path}")


def test_hidden_folders_and_other_files_are_ignored(tmp_path: Path) -> None:
    fill(tmp_path)
    fill(tmp_path, [".cache"])
    (tmp_path / "cat" / "notes.txt").write_text("x")
    assert load_data(f"folder:{tmp_path}").classes == ("cat", "dog")


def test_a_thousand_classes_of_few_images_and_one_of_many(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    sizes = {f"class-{k:03}": 40 if k == 7 else 1 + k % 2 for k in range(1000)}
    for part, limit in (("train", 40), ("test", 1)):
        for name, size in sizes.items():
            for i in range(min(size, limit)):
                save_image(tmp_path / part / name / f"{i}.bmp", rng.integers(0, 256, (3, 5)).astype(np.uint8))
    data = load_data(f"folder:{tmp_path}")
    assert data.classes == tuple(sizes) and data.shape == (1, 3, 5) and len(data.test) == 1000
    assert torch.bincount(data.training_examples.labels).tolist() == list(sizes.values())
    sample = stratified_sample(data.training_examples.labels, 300, 0)
    assert 7 <= int((data.training_examples.labels[sample] == 7).sum()) <= 9  # 40 of 1539, a fifth of them


@given(st.sampled_from([1, 3]), st.integers(1, 7), st.integers(1, 9), st.integers(2, 6), st.integers(0, 99))
def test_images_of_any_size_come_back_as_they_were(channels: int, high: int, wide: int, count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as folder:
        images_of_class: dict[str, list[Array]] = {}
        for k in range(count):
            name = f"{k}"
            for i in range(int(rng.integers(1, 4))):
                pixels = rng.integers(0, 256, (high, wide) if channels == 1 else (high, wide, 3)).astype(np.uint8)
                images_of_class.setdefault(name, []).append(pixels.reshape(high, wide, channels).transpose(2, 0, 1))
                for part in ("train", "test"):
                    save_image(Path(folder) / part / name / f"{i}.bmp", pixels)
        data = load_data(f"folder:{folder}")
    expected = np.stack([pixels for images in images_of_class.values() for pixels in images])
    assert data.shape == (channels, high, wide) and data.classes == tuple(images_of_class)
    for examples in (data.training_examples, data.test):
        assert np.array_equal(examples.inputs.numpy(), expected)
        assert torch.bincount(examples.labels).tolist() == [len(images) for images in images_of_class.values()]
