"""Parquet files in the layout of Hugging Face datasets, written here."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from parquet_files import encoded, pictures, write_parquet
from reference import message_of

from robust_student.data.readers.load import load_data


def write_both(folder: Path, test: str = "test") -> list[Any]:
    images = pictures(12)
    rows = [{"bytes": encoded(image), "path": None} for image in images]
    write_parquet(folder / "train-00000-of-00002.parquet", rows[:5], [0, 1, 2, 0, 1])
    write_parquet(folder / "train-00001-of-00002.parquet", rows[5:9], [2, 0, 1, 2])
    write_parquet(folder / f"{test}-00000-of-00001.parquet", rows[9:], [0, 1, 2])
    return images


def test_shards_are_read_in_order_with_their_class_names(tmp_path: Path) -> None:
    images = write_both(tmp_path)
    data = load_data(f"parquet:{tmp_path}")
    assert data.classes == ("cat", "dog", "owl") and data.shape == (3, 6, 5)
    assert data.training_examples.labels.tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 2] and data.test.labels.tolist() == [
        0,
        1,
        2,
    ]
    assert torch.equal(data.training_examples.inputs, torch.from_numpy(np.stack(images[:9])).permute(0, 3, 1, 2))
    assert torch.equal(data.test.inputs, torch.from_numpy(np.stack(images[9:])).permute(0, 3, 1, 2))


def test_a_data_folder_and_a_validation_split_will_do(tmp_path: Path) -> None:
    write_both(tmp_path / "data", test="validation")
    assert len(load_data(f"parquet:{tmp_path}").test) == 3


def test_plain_bytes_grey_images_and_nameless_classes(tmp_path: Path) -> None:
    images = pictures(6, (4, 4))
    for part in ("train", "test"):
        write_parquet(tmp_path / f"{part}.parquet", [encoded(image) for image in images], [0, 1] * 3, "img", None)
    data = load_data(f"parquet:{tmp_path}")
    assert data.shape == (1, 4, 4) and data.classes == ("0", "1")
    assert torch.equal(data.test.inputs[:, 0], torch.from_numpy(np.stack(images)))


def test_the_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_both(tmp_path)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "pip install 'robust-student[parquet]'" in message_of(lambda: load_data(f"parquet:{tmp_path}"))


@pytest.mark.parametrize(
    ("images", "labels", "column", "expected"),
    [
        ([b"no image"] * 3, [0, 1, 2], "image", "row 0: cannot read it"),
        ([None] * 3, [0, 1, 2], "image", "row 0: holds no image bytes"),
        ([encoded(p) for p in (*pictures(2), *pictures(1, (5, 5, 3)))], [0, 1, 2], "image", "row 2: the image is"),
        ([encoded(p) for p in pictures(3)], [0, -1, 2], "image", "row 1: label -1"),
        ([encoded(p) for p in pictures(3)], [0, None, 2], "image", "row 1: label None"),
        ([encoded(p) for p in pictures(3)], [0, 1, 7], "image", "label 7 is out of range for 3 classes"),
        ([encoded(p) for p in pictures(3)], [0, 1, 2], "picture", "no column image or img (there are: picture, label)"),
        ([], [], "image", "holds no rows"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, images: list[Any], labels: list[Any], column: str, expected: str) -> None:
    write_both(tmp_path)
    for old in tmp_path.glob("train*"):
        old.unlink()
    write_parquet(tmp_path / "train.parquet", images, labels, column)
    assert expected in message_of(lambda: load_data(f"parquet:{tmp_path}"))


def test_bad_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "readme.txt").write_text("nothing")
    assert "no file train*.parquet" in message_of(lambda: load_data(f"parquet:{tmp_path}"))
    write_both(tmp_path)
    (tmp_path / "train-00001-of-00002.parquet").write_bytes(b"PAR1 cut")
    assert "not a readable Parquet file" in message_of(lambda: load_data(f"parquet:{tmp_path}"))
    write_parquet(
        tmp_path / "train-00001-of-00002.parquet", [encoded(p) for p in pictures(2)], [0, 1], names=["a", "b", "c"]
    )
    assert "differ in class names" in message_of(lambda: load_data(f"parquet:{tmp_path}"))
