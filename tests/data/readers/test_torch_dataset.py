"""Map-style datasets of any kind become the same examples."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from reference import as_numpy, message_of
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from robust_student import data_from_datasets
from robust_student.core.errors import UserError
from robust_student.core.tensors import UNBOUNDED, UNIT_RANGE, InputRange
from robust_student.data import cache as cache_module
from robust_student.data import decoding
from robust_student.data.readers import torch_dataset
from robust_student.data.readers.load import Data


class Items(Dataset[Any]):
    """A dataset of a list of items."""

    def __init__(self, items: list[Any], classes: list[str] | None = None) -> None:
        self.items = items
        if classes is not None:
            self.classes = classes

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, row: int) -> Any:
        return self.items[row]


PIXELS = np.random.default_rng(0).integers(0, 256, (8, 5, 4, 3)).astype(np.uint8)
LABELS = [0, 1, 2, 0, 1, 2, 0, 1]
FORMS: dict[str, Callable[[Any], Any]] = {
    "PIL image": Image.fromarray,
    "array, channels last": lambda pixels: pixels,
    "array, channels first": lambda pixels: pixels.transpose(2, 0, 1),
    "tensor": lambda pixels: torch.from_numpy(pixels.transpose(2, 0, 1).copy()),
}
NUMBERS: dict[str, Callable[[int], Any]] = {"int": int, "tensor": torch.tensor, "numpy": np.int64, "array": np.array}


def of(inputs: list[Any], labels: list[Any] = LABELS, **options: Any) -> Data:
    items = Items(list(zip(inputs, labels, strict=True)))
    return data_from_datasets(items, Items(items.items[:4]), **options)


@pytest.mark.parametrize("number", list(NUMBERS))
@pytest.mark.parametrize("form", list(FORMS))
def test_every_form_of_an_image_gives_the_same_pixels(form: str, number: str) -> None:
    data = of([FORMS[form](pixels) for pixels in PIXELS], [NUMBERS[number](label) for label in LABELS])
    expected = torch.from_numpy(PIXELS.transpose(0, 3, 1, 2).copy())
    assert torch.equal(data.training_examples.inputs, expected) and torch.equal(data.test.inputs, expected[:4])
    assert data.training_examples.labels.tolist() == LABELS and data.shape == (3, 5, 4)
    assert data.classes == ("0", "1", "2") and data.input_range == UNIT_RANGE and data.validation is None


def test_grey_images_have_one_channel_and_become_coloured_among_coloured_ones() -> None:
    grey = [Image.fromarray(pixels[..., 0]) for pixels in PIXELS]
    assert of(grey).shape == (1, 5, 4) and of([pixels[..., 0] for pixels in PIXELS]).shape == (1, 5, 4)
    mixed = of([Image.fromarray(PIXELS[0]), *grey[1:]]).training_examples.inputs
    assert torch.equal(mixed[1], torch.from_numpy(PIXELS[1, ..., 0].copy()).expand(3, 5, 4))


def test_float_items_keep_their_values_and_decide_the_range() -> None:
    values = torch.rand((8, 2, 3), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    inside = of(list(values))
    assert inside.input_range == UNIT_RANGE and inside.training_examples.inputs.dtype == torch.float32
    assert torch.equal(inside.training_examples.inputs, values.float())
    outside = of([5 * value for value in values])
    assert outside.input_range == UNBOUNDED and outside.scale is not None
    np.testing.assert_allclose(as_numpy(outside.scale), (5 * values).float().numpy().std(axis=0), rtol=1e-5)


def test_a_given_range_is_checked() -> None:
    values = [torch.full((3,), 0.1 * k - 0.3) for k in range(8)]
    limits = InputRange(-1.0, 1.0)
    assert of(values, input_range=limits).input_range == limits
    message = message_of(lambda: of(values, input_range=InputRange(0.0, 1.0)))
    assert "train: holds values from -0.3 to 0.4, outside the input range (0.0, 1.0)" in message


def test_names_come_from_the_argument_or_the_dataset() -> None:
    items = list(zip(PIXELS, LABELS, strict=True))
    named = Items(items, ["cat", "dog", "owl"])
    assert data_from_datasets(named, Items(items)).classes == ("cat", "dog", "owl")
    assert data_from_datasets(named, Items(items), classes=["a", "b", "c", "d"]).classes == ("a", "b", "c", "d")
    assert "label 2 is out of range" in message_of(lambda: data_from_datasets(named, Items(items), classes=["a", "b"]))


def test_validation_and_tensor_datasets_are_taken() -> None:
    dataset = TensorDataset(torch.rand(12, 6), torch.arange(12) % 3)
    data = data_from_datasets(dataset, dataset, validation=TensorDataset(torch.rand(4, 6), torch.arange(4) % 3))
    assert data.validation is not None and len(data.validation) == 4 and data.shape == (6,)


def test_many_items_are_mapped_and_the_number_of_workers_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv(cache_module.VARIABLE, str(cache))
    monkeypatch.setattr(cache_module, "_IN_MEMORY", 100)
    monkeypatch.setattr(torch_dataset, "_BATCH", 3)
    examples = [of(list(PIXELS), workers=workers).training_examples for workers in (1, 2)]
    assert all(one.mapped for one in examples) and torch.equal(examples[0].inputs, examples[1].inputs)
    assert examples[0].labels.tolist() == examples[1].labels.tolist() == LABELS
    assert examples[0].digest() == examples[1].digest() and list(cache.iterdir()) == []


def test_reading_leaves_the_global_random_numbers_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    of(list(PIXELS))
    assert torch.equal(torch.rand(3), expected)


class Endless(IterableDataset[Any]):
    """Has no length."""

    def __iter__(self) -> Iterator[Any]:
        return iter(())


@pytest.mark.parametrize(
    ("item", "words"),
    [
        (PIXELS[0], "is a ndarray, not (input, label)"),
        ({"image": PIXELS[0], "label": 0}, "is a dict, not (input, label)"),
        ((PIXELS[0], 0, 0), "is a tuple, not (input, label)"),
        ((PIXELS[0], 1.5), "label 1.5 is not a class number"),
        ((PIXELS[0], -1), "label -1 is not a class number"),
        ((PIXELS[0], "cat"), "label 'cat' is not a class number"),
        ((PIXELS[0], torch.tensor([1])), "is not a class number"),
        (("image.png", 0), "the input is a str, not an image, array or tensor"),
        ((PIXELS[0].astype(np.int64), 0), "the input is int64, not uint8 or float"),
        ((PIXELS[0][:4], 0), "the input is uint8 of shape (3, 4, 4), the first is uint8 of shape (3, 5, 4)"),
        ((PIXELS[0].astype(np.float32), 0), "the input is float32 of shape (3, 5, 4), the first is uint8"),
    ],
)
def test_a_bad_item_is_named(item: Any, words: str) -> None:
    items = [(pixels, label) for pixels, label in zip(PIXELS, LABELS, strict=True)]
    items[5] = item
    message = message_of(lambda: data_from_datasets(Items(items), Items(items[:4]), name="mine"))
    assert "data 'mine': train item 5: " in message and words in message


def test_not_a_number_is_named() -> None:
    values = torch.rand(8, 3)
    values[6, 1] = float("nan")
    assert "train item 6: holds NaN or infinite values" in message_of(lambda: of(list(values)))


def test_sets_that_do_not_belong_together_are_refused() -> None:
    items = Items(list(zip(PIXELS, LABELS, strict=True)))
    assert "is empty" in message_of(lambda: data_from_datasets(items, Items([])))
    assert "give a map-style dataset" in message_of(lambda: data_from_datasets(items, Endless()))
    other = Items([(pixels[:4], 0) for pixels in PIXELS])
    assert "test inputs have shape (3, 4, 4)" in message_of(lambda: data_from_datasets(items, other))
    assert "only 1 class" in message_of(lambda: of(list(PIXELS), [0] * 8))


class Broken(Items):
    """Its fourth item raises an error of its own."""

    def __getitem__(self, row: int) -> Any:
        if row == 3:
            raise RuntimeError("broken in a DataLoader worker of mine")
        return super().__getitem__(row)


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_of_the_dataset_itself_is_passed_on(workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_dataset, "_BATCH", 2)
    items = Broken(list(zip(PIXELS, LABELS, strict=True)))
    with pytest.raises(RuntimeError, match="broken in a DataLoader worker of mine"):
        data_from_datasets(items, items, workers=workers)


@given(
    st.sampled_from([1, 3]),
    st.integers(1, 9),
    st.integers(1, 9),
    st.integers(2, 1000),
    st.lists(st.integers(0, 10**6), min_size=2, max_size=12),
)
def test_any_channels_size_and_number_of_classes(
    channels: int, high: int, wide: int, count: int, draws: list[int]
) -> None:
    labels = [draw % count for draw in draws]
    rng = np.random.default_rng(len(draws))
    pixels = rng.integers(0, 256, (len(labels), channels, high, wide)).astype(np.uint8)
    items = Items([(torch.from_numpy(one), label) for one, label in zip(pixels, labels, strict=True)])
    names = [f"class {k}" for k in range(count)]
    if len(set(labels)) == 1:
        with pytest.raises(UserError, match="only 1 class"):
            data_from_datasets(items, items, classes=names)
        return
    data = data_from_datasets(items, items, classes=names)
    assert data.shape == (channels, high, wide) and len(data.classes) == count
    assert np.array_equal(data.training_examples.inputs.numpy(), pixels)
    assert data.training_examples.labels.tolist() == labels


def test_workers_start_only_for_many_items(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def watched(*arguments: Any, **options: Any) -> Any:
        asked.append(options["num_workers"])
        return DataLoader(*arguments, **options | {"num_workers": 0})

    monkeypatch.setattr(decoding, "DataLoader", watched)
    monkeypatch.setattr(torch_dataset, "usable_cores", lambda: 2)
    of(list(PIXELS))
    monkeypatch.setattr(torch_dataset, "ALONE", 4)
    monkeypatch.setattr(torch_dataset, "_BATCH", 2)
    of(list(PIXELS))
    assert asked == [0, 0, 2, 0]
