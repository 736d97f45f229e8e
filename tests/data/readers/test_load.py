"""The table of sources: digits, names, and what no source may be asked for."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from data_sources import refusal

from robust_student.core.tensors import UNIT_RANGE
from robust_student.data.readers.load import READERS, load_data

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
