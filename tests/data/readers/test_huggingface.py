"""Hugging Face datasets made here: folders of Parquet or image files, saved datasets, every column layout."""

import io
import sys
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from reference import message_of

from robust_student.core.tensors import Shape
from robust_student.data import cache, decoding
from robust_student.data.readers.load import load_data

NAMES = ["cat", "dog", "owl"]
pytestmark = pytest.mark.usefixtures("own_datasets_cache")


def pictures(count: int, seed: int = 0, shape: Shape = (5, 4, 3)) -> list[Any]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, shape).astype(np.uint8) for _ in range(count)]


def png(pixels: Any) -> dict[str, Any]:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def dataset(
    images: list[Any], labels: list[Any], image: str = "image", label: str = "label", names: list[str] | None = NAMES
) -> Any:
    kind = datasets.Value("string" if isinstance(labels[0], str) else "int64")
    features = {image: datasets.Image(), label: kind if names is None else datasets.ClassLabel(names=names)}
    rows = {image: [png(pixels) for pixels in images], label: labels}
    return datasets.Dataset.from_dict(rows, features=datasets.Features(features))


def parts(**sizes: int) -> Any:
    """Splits of these sizes with labels 0, 1, 2 in turn."""
    return datasets.DatasetDict(
        {name: dataset(pictures(n, k), [i % 3 for i in range(n)]) for k, (name, n) in enumerate(sizes.items())}
    )


def write(dataset: Any, folder: Path, how: str) -> str:
    if how == "saved":
        dataset.save_to_disk(str(folder))
    else:
        folder.mkdir()
        for name, part in dataset.items():
            part.to_parquet(folder / f"{name}-00000-of-00001.parquet")
    return f"hf:{folder}"


def stacked(images: list[Any]) -> torch.Tensor:
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)


@pytest.mark.parametrize("how", ["saved", "parquet"])
def test_splits_pixels_labels_and_names_are_those_of_the_dataset(how: str, tmp_path: Path) -> None:
    data = load_data(write(parts(train=7, validation=3, test=4), tmp_path / "some", how))
    assert data.name == "some" and data.classes == tuple(NAMES) and data.validation is not None
    for k, (part, n) in enumerate(((data.training_examples, 7), (data.validation, 3), (data.test, 4))):
        assert torch.equal(part.inputs, stacked(pictures(n, k))) and part.labels.tolist() == [i % 3 for i in range(n)]


def test_a_single_saved_dataset_and_a_single_file_hold_a_fifth_out_by_position(tmp_path: Path) -> None:
    one = dataset(pictures(20), [i % 2 for i in range(20)], names=["a", "b"])
    one.save_to_disk(str(tmp_path / "saved"))
    one.to_parquet(tmp_path / "one.parquet")
    first, second = load_data(f"hf:{tmp_path / 'saved'}"), load_data(f"hf:{tmp_path / 'one.parquet'}")
    assert (len(first.train), len(first.test)) == (16, 4) and first.test.labels.sum() == 2
    assert torch.equal(first.test.inputs, second.test.inputs)


def test_a_folder_of_images_is_read_from_its_files(tmp_path: Path) -> None:
    images = pictures(12)
    for k, pixels in enumerate(images):
        path = tmp_path / "photos" / ("train", "test")[k % 2] / ("ant", "bee")[k // 6] / f"{k:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    data = load_data(f"hf:{tmp_path / 'photos'}")
    assert data.classes == ("ant", "bee") and torch.equal(data.training_examples.inputs, stacked(images[::2]))
    assert torch.equal(data.test.inputs, stacked(images[1::2])) and data.test.labels.tolist() == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize("name", ["validation", "valid", "val", "dev"])
def test_validation_is_the_test_set_where_there_is_none(name: str, tmp_path: Path) -> None:
    data = load_data(write(parts(train=6, **{name: 4}), tmp_path / "some", "saved"))
    assert data.validation is None and torch.equal(data.test.inputs, stacked(pictures(4, 1)))


def test_splits_may_be_chosen(tmp_path: Path) -> None:
    spec = write(parts(fit=6, test=3, extra=4, other=5), tmp_path / "some", "saved")
    data = load_data(f"{spec},train=fit,test=extra,validation=other")
    assert data.validation is not None and (len(data.train), len(data.test), len(data.validation)) == (6, 4, 5)
    assert "no split 'train' (there are: fit, test, extra, other)" in message_of(lambda: load_data(spec))
    assert "no split 'tset' for test; did you mean 'test'" in message_of(
        lambda: load_data(f"{spec},train=fit,test=tset")
    )


def test_columns_are_found_by_type_or_named(tmp_path: Path) -> None:
    both = dataset(pictures(6), [0, 1, 2] * 2, "scan", "kind")
    both = both.add_column("rank", list(range(6))).add_column("second", list(range(6)))
    spec = write(datasets.DatasetDict(train=both, test=both), tmp_path / "one", "saved")
    assert load_data(spec).classes == tuple(NAMES)
    ranked = load_data(f"{spec},label=rank")
    assert ranked.training_examples.labels.tolist() == list(range(6)) and ranked.classes == tuple("012345")
    assert "no column 'rnak'; did you mean 'rank'" in message_of(lambda: load_data(f"{spec},label=rnak"))
    unclear = both.cast_column("kind", datasets.Value("int64"))
    spec = write(datasets.DatasetDict(train=unclear, test=unclear), tmp_path / "two", "saved")
    assert "which column is the label? Say label=COLUMN" in message_of(lambda: load_data(spec))
    twice = both.add_column("image", [png(pixels) for pixels in pictures(6, 1)], feature=datasets.Image())
    spec = write(datasets.DatasetDict(train=twice, test=twice.select([1])), tmp_path / "three", "saved")
    assert torch.equal(load_data(f"{spec},image=scan").test.inputs, stacked(pictures(6)[1:2]))


def test_labels_may_be_texts(tmp_path: Path) -> None:
    train = dataset(pictures(4), ["owl", "cat", "owl", "bee"], names=None)
    test = dataset(pictures(2), ["cat", "owl"], names=None)
    data = load_data(write(datasets.DatasetDict(train=train, test=test), tmp_path / "some", "parquet"))
    assert data.classes == ("bee", "cat", "owl")
    assert data.training_examples.labels.tolist() == [2, 1, 2, 0] and data.test.labels.tolist() == [1, 2]


def test_a_test_split_without_labels_is_refused_with_the_remedy(tmp_path: Path) -> None:
    hidden = datasets.DatasetDict(
        train=dataset(pictures(6), [0, 1, 2] * 2),
        validation=dataset(pictures(3, 1), [0, 1, 2]),
        test=dataset(pictures(3, 2), [-1] * 3),
    )
    spec = write(hidden, tmp_path / "some", "saved")
    message = message_of(lambda: load_data(spec))
    assert "test row 0: label -1 is none of the 3 classes" in message and "test=SPLIT" in message
    assert torch.equal(load_data(f"{spec},test=validation").test.inputs, stacked(pictures(3, 1)))


def test_images_of_several_sizes_need_one_to_be_asked_for(tmp_path: Path) -> None:
    mixed = dataset([*pictures(5), *pictures(1, 1, (6, 7, 3))], [0, 1, 2] * 2)
    spec = write(datasets.DatasetDict(train=mixed, test=mixed), tmp_path / "some", "saved")
    message = message_of(lambda: load_data(spec))
    assert "train row 5: the image is 6x7, the first is 5x4" in message and "--image-size" in message
    assert load_data(spec, image_size=(8, 9)).shape == (3, 8, 9) and load_data(spec, image_size=6).shape == (3, 6, 6)


def test_grey_images_stay_grey_unless_some_are_coloured(tmp_path: Path) -> None:
    grey, colour = pictures(6, 0, (5, 4)), pictures(2, 1)
    labels = [0, 1, 2] * 2
    spec = write(
        datasets.DatasetDict(train=dataset(grey, labels), test=dataset(grey[:3], labels[:3])), tmp_path / "a", "saved"
    )
    assert load_data(spec).shape == (1, 5, 4)
    spec = write(
        datasets.DatasetDict(train=dataset(grey, labels), test=dataset(colour, [0, 1])), tmp_path / "b", "saved"
    )
    data = load_data(spec)
    assert data.shape == (3, 5, 4) and torch.equal(data.test.inputs, stacked(colour))
    assert torch.equal(data.training_examples.inputs, torch.from_numpy(np.stack(grey))[:, None].expand(6, 3, 5, 4))


def test_many_images_are_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "_IN_MEMORY", 100)
    monkeypatch.setattr(decoding, "ALONE", 3)
    spec = write(parts(train=7, test=4), tmp_path / "some", "saved")
    first = load_data(spec, workers=2).training_examples
    assert first.mapped and torch.equal(first.inputs, stacked(pictures(7)))
    monkeypatch.setattr(decoding, "decode", None)
    monkeypatch.setattr(decoding, "read_header", None)
    again = load_data(spec, workers=2)
    assert torch.equal(again.training_examples.inputs, first.inputs) and again.shape == (3, 5, 4)


def test_a_broken_image_is_named(tmp_path: Path) -> None:
    rows = [png(pixels) for pixels in pictures(3)]
    rows[1] = {"bytes": b"no image", "path": None}
    bad = datasets.Dataset.from_dict(
        {"image": rows, "label": [0, 1, 2]},
        features=datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=NAMES)}),
    )
    spec = write(datasets.DatasetDict(train=bad, test=bad), tmp_path / "some", "saved")
    assert "train row 1: cannot read it" in message_of(lambda: load_data(spec))
    rows[1] = None  # type: ignore[call-overload]
    bad = datasets.Dataset.from_dict({"image": rows, "label": [0, 1, 2]}, features=bad.features)
    spec = write(datasets.DatasetDict(train=bad, test=bad), tmp_path / "other", "saved")
    assert "train row 1: holds no image" in message_of(lambda: load_data(spec))


def test_what_cannot_be_loaded_gives_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no such file or folder" in message_of(lambda: load_data(f"hf:{tmp_path / 'gone'}"))
    (tmp_path / "some").mkdir()
    (tmp_path / "some" / "train.parquet").write_bytes(b"PAR1 cut")
    assert "datasets cannot load it" in message_of(lambda: load_data(f"hf:{tmp_path / 'some'}"))

    def unreachable(*_: Any, **__: Any) -> None:
        raise ConnectionError("the Hub\nis not there")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    assert "(ConnectionError: the Hub is not there)" in message_of(lambda: load_data("hf:some/name"))
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert "pip install 'robust-student[data]'" in message_of(lambda: load_data("hf:some/name"))


def test_the_configuration_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def load(name: str, config: str | None, *, streaming: bool) -> Any:
        asked.append((name, config, streaming))
        return parts(train=6, test=3)

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert len(load_data("hf:some/name,config=small").train) == 6
    assert len(load_data("hf:some/name").train) == 6
    assert asked == [("some/name", "small", False), ("some/name", None, False)]


def test_a_script_in_a_folder_is_not_run(tmp_path: Path) -> None:
    folder = tmp_path / "scripted"
    folder.mkdir()
    (folder / "scripted.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'executed')!r})\n")
    message_of(lambda: load_data(f"hf:{folder}"))
    assert not (tmp_path / "executed").exists()
