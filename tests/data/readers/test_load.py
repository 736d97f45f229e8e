import gzip
import hashlib
import os
import struct
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image
from reference import as_numpy
from torch import Tensor

from robust_student.core.errors import UserError
from robust_student.core.tensors import UNBOUNDED, UNIT_RANGE
from robust_student.data.readers.load import READERS, Data, Examples, load_data, read_image, split, stratified_sample
from robust_student.data.samples import held_out_by_name

Array = npt.NDArray[Any]
MNIST_VARIABLE = "ROBUST_STUDENT_MNIST"
IDX_PARTS = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def refusal(spec: str, **options: Any) -> str:
    """The one-line message with which the data are refused."""
    with pytest.raises(UserError) as error:
        load_data(spec, **options)
    message = str(error.value)
    assert len(message.splitlines()) == 1
    return message


# Digits ---------------------------------------------------------------------------------------------------------------


def test_digits_are_grey_8x8_images_of_ten_classes_in_the_unit_range() -> None:
    data = load_data("digits")
    assert data.shape == (1, 8, 8) and data.classes == tuple("0123456789") and data.input_range == UNIT_RANGE
    values = torch.cat([data.training_examples.floats(), data.test.floats()])
    assert values.dtype == torch.float32 and data.scale is None
    assert values.min() == 0 and values.max() == 1


def test_digits_hold_out_400_stratified_test_examples_of_1797() -> None:
    data = load_data("digits")
    assert (len(data.train), len(data.test)) == (1397, 400)
    everyone = Counter([*data.training_examples.labels.tolist(), *data.test.labels.tolist()])
    tested = Counter(data.test.labels.tolist())
    assert all(abs(tested[k] - everyone[k] * 400 / 1797) < 1 for k in range(10))


def test_the_test_split_of_digits_is_the_same_every_time_and_disjoint_from_training() -> None:
    first, second = load_data("digits"), load_data("digits")
    assert torch.equal(first.test.inputs, second.test.inputs) and torch.equal(
        first.training_examples.labels, second.training_examples.labels
    )
    rows = Counter(map(tuple, torch.cat([first.training_examples.inputs, first.test.inputs]).flatten(1).tolist()))
    from sklearn.datasets import load_digits

    assert rows == Counter(map(tuple, (load_digits().data / 16).astype(np.float32).tolist()))


# Names ----------------------------------------------------------------------------------------------------------------


def test_an_unknown_data_name_is_refused_with_the_nearest_one() -> None:
    assert "did you mean 'mnist'" in refusal("mnits:somewhere")


@pytest.mark.parametrize(("spec", "example"), [("mnist", "mnist:DIR"), ("folder:", "folder:DIR"), ("npz", "npz:FILE")])
def test_a_source_without_a_place_is_refused_with_an_example(spec: str, example: str) -> None:
    assert example in refusal(spec)


@pytest.mark.parametrize("kind", ["mnist", "folder"])
def test_a_missing_or_empty_folder_is_refused_by_name(kind: str, tmp_path: Path) -> None:
    (tmp_path / "bare").mkdir()
    assert str(tmp_path / "gone") in refusal(f"{kind}:{tmp_path / 'gone'}")
    assert "empty" in refusal(f"{kind}:{tmp_path / 'bare'}")


def test_data_of_another_shape_than_the_model_expects_are_refused() -> None:
    assert "(1, 8, 8)" in refusal("digits", shape=(1, 28, 28))


def test_image_size_is_refused_where_it_has_no_effect() -> None:
    assert "image_size" in refusal("digits", image_size=16)


def test_the_documentation_names_every_source_and_option() -> None:
    page = (Path(__file__).parents[3] / "docs" / "data.md").read_text(encoding="utf-8")
    for kind, reader in READERS.items():
        assert f"`{kind}:" in page or f"`{kind}`" in page
        assert [name for name in reader.options if f"{name}=" not in page and f"`{name}`" not in page] == []


# IDX ------------------------------------------------------------------------------------------------------------------


def idx(array: Array, kind: int = 8) -> bytes:
    """The array as an IDX file."""
    return struct.pack(f">HBB{array.ndim}I", 0, kind, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


@pytest.fixture
def idx_folder(tmp_path: Path) -> Path:
    """Five training and three test images of 4x3 pixels."""
    rng = np.random.default_rng(0)
    contents = [
        rng.integers(0, 256, (5, 4, 3)),
        np.array([0, 1, 2, 0, 1]),
        rng.integers(0, 256, (3, 4, 3)),
        np.arange(3),
    ]
    for name, content in zip(IDX_PARTS, contents, strict=True):
        (tmp_path / name).write_bytes(idx(content))
    return tmp_path


def test_idx_files_give_their_pixels_and_labels(idx_folder: Path) -> None:
    data = load_data(f"mnist:{idx_folder}")
    expected = np.random.default_rng(0).integers(0, 256, (5, 4, 3))
    assert data.shape == (1, 4, 3) and data.training_examples.inputs.dtype == torch.uint8
    assert np.array_equal(data.training_examples.inputs[:, 0].numpy(), expected)
    assert data.training_examples.labels.tolist() == [0, 1, 2, 0, 1] and data.test.labels.tolist() == [0, 1, 2]
    assert data.classes == ("0", "1", "2") and data.input_range == UNIT_RANGE


def test_gzipped_and_dotted_idx_files_read_like_raw_ones(idx_folder: Path) -> None:
    plain = load_data(f"mnist:{idx_folder}")
    for name in IDX_PARTS:
        content = (idx_folder / name).read_bytes()
        (idx_folder / name).unlink()
        if "labels" in name:
            (idx_folder / name.replace("-idx", ".idx")).write_bytes(content)
        else:
            (idx_folder / f"{name}.gz").write_bytes(gzip.compress(content))
    again = load_data(f"mnist:{idx_folder}")
    assert torch.equal(plain.training_examples.inputs, again.training_examples.inputs) and torch.equal(
        plain.test.labels, again.test.labels
    )


@pytest.mark.parametrize("name", IDX_PARTS)
def test_a_missing_idx_file_is_named(name: str, idx_folder: Path) -> None:
    (idx_folder / name).unlink()
    assert name in refusal(f"mnist:{idx_folder}")


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:3],
        lambda content: content[:-1],
        lambda content: content + b"\0",
        lambda content: b"\1" + content[1:],
        lambda content: content[:2] + b"\x0d" + content[3:],
        lambda content: gzip.compress(content)[:-9],
        lambda content: gzip.compress(content)[:12] + b"\xff" * 20,
    ],
    ids=["empty", "header cut", "data cut", "too long", "magic", "not bytes", "gzip cut", "gzip damaged"],
)
def test_a_damaged_idx_file_is_named(damage: Callable[[bytes], bytes], idx_folder: Path) -> None:
    path = idx_folder / IDX_PARTS[0]
    path.write_bytes(damage(path.read_bytes()))
    assert str(path) in refusal(f"mnist:{idx_folder}")


@pytest.mark.parametrize("swapped", [np.arange(4), np.zeros((5, 1))], ids=["count", "dimensions"])
def test_idx_labels_that_do_not_belong_to_the_images_are_refused(swapped: Array, idx_folder: Path) -> None:
    (idx_folder / IDX_PARTS[1]).write_bytes(idx(swapped))
    assert "do not belong together" in refusal(f"mnist:{idx_folder}")


def test_an_idx_test_label_without_training_class_is_refused(idx_folder: Path) -> None:
    (idx_folder / IDX_PARTS[3]).write_bytes(idx(np.array([0, 1, 3])))
    assert "test label 3 is out of range for 3 classes" in refusal(f"mnist:{idx_folder}")


def test_an_idx_set_without_test_images_is_refused(idx_folder: Path) -> None:
    (idx_folder / IDX_PARTS[2]).write_bytes(idx(np.zeros((0, 4, 3))))
    (idx_folder / IDX_PARTS[3]).write_bytes(idx(np.zeros(0)))
    refusal(f"mnist:{idx_folder}")


@pytest.mark.skipif(MNIST_VARIABLE not in os.environ, reason=f"set {MNIST_VARIABLE} to a folder with the IDX files")
def test_mnist_itself_has_its_published_sizes() -> None:
    data = load_data(f"mnist:{os.environ[MNIST_VARIABLE]}")
    assert (len(data.train), len(data.test), data.shape, len(data.classes)) == (60_000, 10_000, (1, 28, 28), 10)
    if data.training_examples.labels[:5].tolist() == [5, 0, 4, 1, 9]:
        mean, std = data.statistics()
        assert (round(float(mean), 4), round(float(std), 4)) == (0.1307, 0.3081)


def only_value(pixels: Tensor) -> int:
    """The one value that all pixels have."""
    (value,) = set(pixels.flatten().tolist())
    return int(value)


# Folders --------------------------------------------------------------------------------------------------------------


def save_image(path: Path, pixels: Array, **options: Any) -> None:
    """Write an image file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


def fill(
    folder: Path, classes: Sequence[str] = ("cat", "dog"), count: int = 5, side: int = 6, colour: bool = False
) -> Path:
    """PNG images of one value per class and number."""
    for k, name in enumerate(classes):
        for i in range(count):
            pixels = np.full((side, side, 3) if colour else (side, side), 20 * k + i, np.uint8)
            save_image(folder / name / f"{i}.png", pixels)
    return folder


@pytest.mark.parametrize(("colour", "channels"), [(False, 1), (True, 3)])
def test_folder_images_are_grey_only_if_every_image_is(colour: bool, channels: int, tmp_path: Path) -> None:
    fill(tmp_path)
    if colour:
        save_image(tmp_path / "dog" / "red.png", np.full((6, 6, 3), (200, 0, 0), np.uint8))
    data = load_data(f"folder:{tmp_path}")
    assert data.shape == (channels, 6, 6) and data.classes == ("cat", "dog")


def test_folder_pixels_and_labels_are_those_of_the_files(tmp_path: Path) -> None:
    data = load_data(f"folder:{fill(tmp_path)}")
    found = {
        (only_value(image), label)
        for part in (data.training_examples, data.test)
        for image, label in zip(part.inputs, part.labels.tolist(), strict=True)
    }
    assert found == {(20 * k + i, k) for k in range(2) for i in range(5)}


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


def test_the_same_name_in_another_unicode_form_is_held_out_alike() -> None:
    forms = [[unicodedata.normalize(form, f"ä/ö-{i}.png") for i in range(50)] for form in ("NFC", "NFD")]
    assert forms[0] != forms[1]
    composed, decomposed = ([held_out_by_name(name) for name in names] for names in forms)
    assert composed == decomposed and 0 < sum(composed) < 50


def test_a_folder_too_small_to_hold_a_fifth_out_is_refused(tmp_path: Path) -> None:
    held_out = next(i for i in range(99) if held_out_by_name(f"cat/{i}.png"))
    kept = next(i for i in range(99) if not held_out_by_name(f"dog/{i}.png"))
    save_image(tmp_path / "cat" / f"{held_out}.png", np.zeros((6, 6), np.uint8))
    save_image(tmp_path / "dog" / f"{kept}.png", np.zeros((6, 6), np.uint8))
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
    found = {k: only_value(train.inputs[train.labels == k]) for k in range(3)}
    assert found == {0: 0, 1: 128, 2: 255}


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


@pytest.mark.parametrize("kept", [0, 8, 60])
def test_an_unreadable_image_is_named(kept: int, tmp_path: Path) -> None:
    path = fill(tmp_path) / "dog" / "3.png"
    save_image(path, np.random.default_rng(0).integers(0, 256, (6, 6)).astype(np.uint8))
    path.write_bytes(path.read_bytes()[:kept])
    assert str(path) in refusal(f"folder:{tmp_path}")


def test_hidden_folders_and_other_files_are_ignored(tmp_path: Path) -> None:
    fill(tmp_path)
    fill(tmp_path, [".cache"])
    (tmp_path / "cat" / "notes.txt").write_text("x")
    assert load_data(f"folder:{tmp_path}").classes == ("cat", "dog")


def test_the_orientation_a_camera_noted_is_applied(tmp_path: Path) -> None:
    fill(tmp_path, side=8)
    upside_down = np.zeros((8, 8), np.uint8)
    upside_down[:4] = 255
    exif = Image.Exif()
    exif[0x0112] = 3  # rotated by 180 degrees
    save_image(tmp_path / "turned.png", upside_down, exif=exif)
    image = read_image(tmp_path / "turned.png", (1, 8, 8))
    assert image[0, :4].eq(0).all() and image[0, 4:].eq(1).all()


def test_one_image_is_read_as_the_folder_reader_does(tmp_path: Path) -> None:
    data = load_data(f"folder:{fill(tmp_path, colour=True)}", shape=(3, 9, 9))
    image = read_image(tmp_path / "dog" / "4.png", (3, 9, 9))
    assert image.shape == (3, 9, 9) and only_value((255 * image).round()) == 24
    everyone = torch.cat([data.training_examples.floats(), data.test.floats()])
    assert any(torch.equal(image, other) for other in everyone)


def test_a_single_image_that_is_missing_or_unwanted_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="gone.png: no such file"):
        read_image(tmp_path / "gone.png", (1, 8, 8))
    with pytest.raises(UserError, match="expects inputs of shape"):
        read_image(tmp_path / "gone.png", (64,))


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
        kept: dict[str, list[Array]] = {}
        for k in range(count):
            name = f"{k}"
            for i in range(int(rng.integers(1, 4))):
                pixels = rng.integers(0, 256, (high, wide) if channels == 1 else (high, wide, 3)).astype(np.uint8)
                kept.setdefault(name, []).append(pixels.reshape(high, wide, channels).transpose(2, 0, 1))
                for part in ("train", "test"):
                    save_image(Path(folder) / part / name / f"{i}.bmp", pixels)
        data = load_data(f"folder:{folder}")
    expected = np.stack([pixels for images in kept.values() for pixels in images])
    assert data.shape == (channels, high, wide) and data.classes == tuple(kept)
    for examples in (data.training_examples, data.test):
        assert np.array_equal(examples.inputs.numpy(), expected)
        assert torch.bincount(examples.labels).tolist() == [len(images) for images in kept.values()]


# Arrays ---------------------------------------------------------------------------------------------------------------


def save_arrays(folder: Path, **arrays: Any) -> str:
    """Write the arrays; ten images or rows with labels 0 and 1 are the default training set."""
    path = folder / "some.npz"
    defaults = {"x_train": np.zeros((10, 4, 4), np.uint8), "y_train": np.arange(10) % 2}
    present: dict[str, Any] = {name: value for name, value in (defaults | arrays).items() if value is not None}
    np.savez(path, **present)
    return f"npz:{path}"


@pytest.mark.parametrize(
    ("stored", "shape"),
    [((10, 4, 5), (1, 4, 5)), ((10, 4, 5, 3), (3, 4, 5)), ((10, 3, 4, 5), (3, 4, 5)), ((10, 4, 5, 1), (1, 4, 5))],
)
def test_pixel_arrays_become_channels_first(stored: tuple[int, ...], shape: tuple[int, ...], tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, stored).astype(np.uint8)
    data = load_data(save_arrays(tmp_path, x_train=pixels, x_test=pixels, y_test=np.arange(10) % 2))
    assert data.shape == shape and data.training_examples.inputs.dtype == torch.uint8 and data.input_range == UNIT_RANGE
    channels_first = pixels.transpose(0, 3, 1, 2) if stored[-1] in (1, 3) else pixels.reshape(10, *shape)
    assert np.array_equal(data.test.inputs.numpy(), channels_first)
    assert np.allclose(data.test.floats().numpy(), channels_first / 255)


def test_float_inputs_inside_the_unit_interval_have_the_unit_range(tmp_path: Path) -> None:
    data = load_data(save_arrays(tmp_path, x_train=np.random.default_rng(0).random((10, 6))))
    assert (
        data.input_range == UNIT_RANGE and data.scale is None and data.training_examples.inputs.dtype == torch.float32
    )


def test_tabular_inputs_are_unbounded_with_the_training_deviation_as_unit(tmp_path: Path) -> None:
    table = np.random.default_rng(0).normal(3.0, (0.1, 1.0, 10.0), (10, 3))
    table[:, 1] = 7.0
    data = load_data(save_arrays(tmp_path, x_train=table, x_test=table[:4], y_test=np.zeros(4, int)))
    assert data.input_range == UNBOUNDED and data.scale is not None
    deviations = np.sqrt(((table - table.mean(axis=0)) ** 2).mean(axis=0))
    np.testing.assert_allclose(as_numpy(data.scale), [deviations[0], 1.0, deviations[2]], rtol=1e-5)


@pytest.mark.parametrize("outlier", [-0.5, 1.5])
def test_no_test_input_lies_outside_the_declared_range(outlier: float, tmp_path: Path) -> None:
    test = np.full((4, 3), 0.5)
    test[2, 1] = outlier
    train = np.random.default_rng(0).random((10, 3))
    data = load_data(save_arrays(tmp_path, x_train=train, x_test=test, y_test=np.zeros(4, int)))
    assert torch.equal(data.input_range.clip(data.test.floats()), data.test.floats())


def test_without_test_arrays_a_stratified_fifth_is_held_out(tmp_path: Path) -> None:
    rows = np.arange(40, dtype=np.float64).reshape(20, 2)
    data = load_data(save_arrays(tmp_path, x_train=rows, y_train=np.arange(20) % 2))
    assert (len(data.train), len(data.test)) == (16, 4) and data.test.labels.sum() == 2
    assert sorted(torch.cat([data.training_examples.inputs, data.test.inputs])[:, 0].tolist()) == rows[:, 0].tolist()


def test_class_names_may_come_with_the_arrays(tmp_path: Path) -> None:
    assert load_data(save_arrays(tmp_path, classes=np.array(["no", "yes", "rare"]))).classes == ("no", "yes", "rare")


def test_arrays_may_hold_a_validation_part(tmp_path: Path) -> None:
    part = {"x_validation": np.full((3, 4, 4), 7, np.uint8), "y_validation": np.array([0, 1, 0])}
    data = load_data(save_arrays(tmp_path, **part))
    assert data.validation is not None and data.validation.labels.tolist() == [0, 1, 0]
    assert (len(data.train), len(data.test)) == (8, 2) and only_value(data.validation.inputs) == 7


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"x_validation": np.zeros((3, 4, 4), np.uint8)}, "x_validation and y_validation go together"),
        ({"y_train": np.arange(10), "classes": np.array(["a", "b"])}, "label 9 in y_train"),
        ({"y_train": np.arange(10) - 1}, "label -1 in y_train"),
        ({"x_test": np.zeros((2, 4, 4), np.uint8), "y_test": np.array([0, 2])}, "label 2 in y_test"),
        ({"y_train": np.arange(10) / 2}, "y_train must be one whole number"),
        ({"y_train": np.eye(10, dtype=int)}, "y_train must be one whole number"),
        ({"x_train": np.full((10, 3), np.nan)}, "x_train holds NaN"),
        ({"x_train": np.full((10, 3), -np.inf)}, "x_train holds NaN or infinite"),
        ({"x_train": np.zeros((10, 3), np.int64)}, "x_train must be uint8 or float"),
        ({"x_train": np.zeros(10)}, "x_train must"),
        ({"x_train": np.zeros((9, 3))}, "9 rows"),
        ({"x_train": np.zeros((0, 3)), "y_train": np.zeros(0, int)}, "x_train"),
        ({"x_train": None}, "no array 'x_train'"),
        ({"y_train": None}, "no array 'y_train'"),
        ({"x_test": np.zeros((2, 4, 4), np.uint8)}, "go together"),
        ({"x_test": np.zeros((2, 5, 4), np.uint8), "y_test": np.zeros(2, int)}, "differ in shape"),
        ({"y_train": np.zeros(10, int)}, "only 1 class"),
        ({"x_train": np.zeros((10, 0))}, ""),
        ({"x_train": np.float64(3.0)}, "x_train"),
        ({"y_train": np.int64(3)}, "y_train"),
        ({"classes": np.str_("a")}, ""),
    ],
    ids=lambda value: value.replace(" ", "_") if isinstance(value, str) else "",
)
def test_bad_arrays_are_refused_in_one_line(arrays: dict[str, Any], words: str, tmp_path: Path) -> None:
    assert words in refusal(save_arrays(tmp_path, **arrays))


class Payload:
    """Unpickling this makes a directory."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("name", ["x_train", "y_train", "classes"])
def test_pickled_arrays_are_refused_and_never_executed(name: str, tmp_path: Path) -> None:
    witness = tmp_path / "executed"
    array = np.empty(10, object)
    array[:] = [Payload(witness)] * 10
    message = refusal(save_arrays(tmp_path, **{name: array}))
    assert "cannot read it" in message and not witness.exists()


@pytest.mark.parametrize("content", [b"", b"text", b"PK\3\4 cut short", b"\x93NUMPY"])
def test_a_file_that_is_not_npz_is_refused_by_name(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "some.npz").write_bytes(content)
    assert "some.npz" in refusal(f"npz:{tmp_path / 'some.npz'}")


def test_a_single_npy_array_or_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", np.zeros((4, 4)))
    assert "one.npy" in refusal(f"npz:{tmp_path / 'one.npy'}")
    assert "gone.npz" in refusal(f"npz:{tmp_path / 'gone.npz'}")


# Samples, splits, statistics ----------------------------------------------------------------------------------------

LABELS = st.lists(st.integers(0, 4), min_size=1, max_size=60)


@given(LABELS, st.data(), st.integers(0, 2**32))
def test_a_stratified_sample_has_the_right_count_without_repeats_and_shares_within_one(
    labels: list[int], data: st.DataObject, seed: int
) -> None:
    count = data.draw(st.integers(1, len(labels)))
    sample = stratified_sample(torch.tensor(labels), count, seed).tolist()
    assert len(sample) == len(set(sample)) == count
    found = Counter(labels[i] for i in sample)
    assert all(abs(found[k] - n * count / len(labels)) < 1 + 1e-9 for k, n in Counter(labels).items())


@pytest.mark.parametrize(
    ("sizes", "count", "seats"),
    [((60, 29, 11), 10, (6, 3, 1)), ((5, 5), 4, (2, 2)), ((47, 16, 37), 10, (5, 1, 4)), ((97, 1, 2), 10, (10, 0, 0))],
)
def test_the_seats_that_are_left_go_to_the_largest_remainders(
    sizes: tuple[int, ...], count: int, seats: tuple[int, ...]
) -> None:
    labels = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    found = Counter(labels[stratified_sample(labels, count, 0)].tolist())
    assert tuple(found[k] for k in range(len(sizes))) == seats


@given(LABELS, st.integers(0, 2**32))
def test_a_stratified_sample_depends_on_its_seed_alone(labels: list[int], seed: int) -> None:
    count = (len(labels) + 1) // 2
    first, second = (stratified_sample(torch.tensor(labels), count, seed) for _ in range(2))
    assert torch.equal(first, second)


def test_other_seeds_give_other_samples_in_other_orders() -> None:
    labels = torch.arange(200) % 4
    assert not torch.equal(
        stratified_sample(labels, 40, 0).sort().values, stratified_sample(labels, 40, 1).sort().values
    )


def test_a_prefix_of_a_stratified_sample_mixes_the_classes() -> None:
    labels = torch.arange(4).repeat_interleave(100)
    sample = stratified_sample(labels, 400, 0)
    first = Counter(labels[sample[:100]].tolist())
    assert all(10 <= first[k] <= 40 for k in range(4))


def test_every_example_of_a_class_is_equally_likely_to_be_sampled() -> None:
    labels = torch.tensor([0] * 8 + [1] * 4)
    counts = Counter(i for seed in range(2000) for i in stratified_sample(labels, 6, seed).tolist())
    assert all(900 < counts[i] < 1100 for i in range(12))


@pytest.mark.parametrize("count", [0, -1, 4])
def test_an_impossible_sample_is_refused(count: int) -> None:
    with pytest.raises(UserError, match=f"asked for {count} of 3"):
        stratified_sample(torch.tensor([0, 1, 2]), count, 0)


@given(st.integers(2, 60), st.floats(0.01, 0.99), st.integers(0, 99))
def test_a_split_is_disjoint_complete_and_keeps_inputs_with_their_labels(n: int, fraction: float, seed: int) -> None:
    assume(0 < max(1, round(fraction * n)) < n)
    examples = Examples(torch.arange(n)[:, None].float(), torch.arange(n) % 3)
    rest, held_out = split(examples, fraction, seed)
    assert len(held_out) == max(1, round(fraction * n))
    inputs = torch.cat([rest.inputs, held_out.inputs])[:, 0]
    assert sorted(inputs.tolist()) == list(range(n))
    assert torch.equal(inputs.long() % 3, torch.cat([rest.labels, held_out.labels]))


def test_a_split_that_leaves_nothing_is_refused() -> None:
    with pytest.raises(UserError, match="too few"):
        split(Examples(torch.zeros(1, 2), torch.tensor([0])), 0.5, 0)


def data_of(inputs: Tensor) -> Data:
    examples = Examples(inputs, torch.zeros(len(inputs), dtype=torch.int64))
    return Data("made up", examples, examples, ("a", "b"), UNIT_RANGE)


def test_image_statistics_are_per_channel() -> None:
    pixels = torch.randint(256, (7, 3, 4, 5), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    mean, std = data_of(pixels).statistics()
    expected = pixels.numpy() / 255
    assert mean.shape == std.shape == (3, 1, 1)
    np.testing.assert_allclose(as_numpy(mean)[:, 0, 0], expected.mean(axis=(0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(as_numpy(std)[:, 0, 0], expected.std(axis=(0, 2, 3)), rtol=1e-6)


def test_tabular_statistics_are_per_feature_and_a_constant_feature_has_unit_deviation() -> None:
    table = torch.randn((9, 4), generator=torch.Generator().manual_seed(0))
    table[:, 2] = 5.0
    mean, std = data_of(table).statistics()
    np.testing.assert_allclose(as_numpy(mean), table.double().numpy().mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(
        as_numpy(std), np.where(np.arange(4) == 2, 1.0, table.double().numpy().std(axis=0)), rtol=1e-6
    )


def test_pixels_are_divided_by_255_and_floats_are_left_alone() -> None:
    pixels = torch.tensor([[0, 51, 255]], dtype=torch.uint8)
    assert Examples(pixels, torch.tensor([0])).floats()[0].tolist() == pytest.approx([0.0, 0.2, 1.0])
    floats = torch.tensor([[0.0, 51.0, -3.0]])
    assert torch.equal(Examples(floats, torch.tensor([0])).floats(), floats)


def test_a_subset_of_mapped_examples_reads_nothing_and_is_the_same_subset() -> None:
    generator = torch.Generator().manual_seed(0)
    pixels, labels = torch.randint(256, (9, 3, 2, 2), generator=generator).to(torch.uint8), torch.arange(9)
    mapped, held = Examples(pixels, labels, mapped=True, content="known"), Examples(pixels, labels)
    chosen, again = torch.tensor([7, 2, 2, 5]), torch.tensor([3, 0, 1])
    one, other = mapped.subset(chosen).subset(again), held.subset(chosen).subset(again)
    assert one.mapped and one.stored.data_ptr() == pixels.data_ptr() and not other.mapped
    assert one.shape == other.shape == (3, 2, 2) and len(one) == len(other) == 3
    assert torch.equal(one.inputs, other.inputs) and torch.equal(one.labels, other.labels)
    for part in (slice(None), slice(1, 3), torch.tensor([2, 0])):
        assert torch.equal(one.take(part), other.take(part)) and torch.equal(one.floats(part), other.floats(part))


@pytest.mark.parametrize("known", [None, "content"])
def test_the_digest_changes_with_every_input_label_type_shape_and_choice(known: str | None) -> None:
    pixels, labels = torch.arange(24, dtype=torch.uint8).view(6, 4), torch.arange(6) % 3
    base = Examples(pixels, labels, mapped=known is not None, content=known)
    others = [
        replace(base, labels=labels.flip(0)),
        base.subset(torch.arange(5)),
        base.subset(torch.tensor([1, 0, 2, 3, 4, 5])),
    ]
    if known is None:
        changed = pixels.clone()
        changed[5, 3] += 1
        others += [Examples(changed, labels), Examples(pixels.float(), labels), Examples(pixels.view(6, 2, 2), labels)]
    else:
        others += [replace(base, content="other")]
    digests = [examples.digest() for examples in (base, *others)]
    assert len(set(digests)) == len(digests) and all(len(digest) == 64 for digest in digests)
    assert base.digest() == Examples(pixels.clone(), labels.clone(), None, base.mapped, known).digest()


def test_statistics_of_mapped_examples_agree_with_those_in_memory() -> None:
    pixels = torch.randint(256, (700, 3, 4, 5), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    held, labels = data_of(pixels), torch.zeros(700, dtype=torch.int64)
    mapped = replace(held, train=Examples(pixels, labels, mapped=True))
    for one, other in zip(held.statistics(), mapped.statistics(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=0)


def test_statistics_of_many_mapped_examples_use_evenly_spread_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("robust_student.data.examples.STATISTICS_EXAMPLES", 10)
    table = torch.arange(100.0).square()[:, None]
    mean, std = replace(
        data_of(table), train=Examples(table, torch.zeros(100, dtype=torch.int64), mapped=True)
    ).statistics()
    torch.testing.assert_close(mean, table[::10].mean(dim=0))
    torch.testing.assert_close(std, table[::10].std(dim=0, correction=0))


def test_a_subset_keeps_the_order_asked_for() -> None:
    part = Examples(torch.arange(5.0)[:, None], torch.arange(5)).subset(torch.tensor([3, 0, 3]))
    assert part.inputs[:, 0].tolist() == [3, 0, 3] and part.labels.tolist() == [3, 0, 3]
