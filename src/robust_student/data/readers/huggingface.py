"""Hugging Face datasets: names on the Hub, folders of files, folders that `save_to_disk` wrote."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from robust_student.core.errors import UserError, nearest
from robust_student.core.extras import require
from robust_student.core.tensors import UNIT_RANGE
from robust_student.data.cache import stamps
from robust_student.data.decoding import EncodedImages, Numbered, decode_all, uniform_format
from robust_student.data.examples import Data, Examples, numbered
from robust_student.data.groups import file_name, group_names, is_pattern, with_groups
from robust_student.data.samples import with_test_part
from robust_student.data.spec import Spec

OPTIONS = ("config", "image", "label", "train", "test", "validation")
"""Names that may follow the place: the configuration, the two columns, the splits to use for each part."""
_VALIDATION = ("validation", "valid", "val", "dev")
"""Splits that are taken for validation, in this order."""
_IMAGES, _LABELS = ("image", "img", "picture"), ("label", "labels", "fine_label")


class Columns(NamedTuple):
    """Where a dataset keeps what is needed."""

    image: str
    label: str
    classes: tuple[str, ...]
    """Names of the classes, where the dataset knows them; else empty."""


def read_hf(spec: Spec) -> Data:
    """`hf:NAME_OR_PATH[,config=...][,image=COLUMN][,label=COLUMN][,train=SPLIT][,test=SPLIT][,validation=SPLIT]`.

    Without a test split, validation is the test set; without either, a stratified fifth of the rows, by position.
    Images are decoded by this package, once where they are many. Needs the extra `data`. No code of a dataset is run.
    """
    spec.require_images()
    parts = choose_splits(load_splits(spec, streaming=False), spec)
    columns = find_columns(parts["train"].features, spec)
    labels = {part: list(dataset[columns.label]) for part, dataset in parts.items()}
    classes = columns.classes or _names(labels["train"], f"data '{spec.text}'")
    pictures = {part: _pictures(dataset, columns.image, spec, part) for part, dataset in parts.items()}
    form = uniform_format(pictures, spec)
    sets: dict[str, Examples] = {}
    for part, images in pictures.items():
        places = images.places
        numbers = [class_number(label, classes, places[row]) for row, label in enumerate(labels[part])]
        sets[part] = decode_all(images, numbers, form, spec.workers)
    if spec.group is not None:
        sets = with_groups(sets, {part: _groups(rows, columns.image, spec, part) for part, rows in parts.items()})
    sets = with_test_part(sets, classes)
    name = spec.path.name or spec.place
    return Data(name, sets["train"], sets["test"], classes, UNIT_RANGE, validation=sets.get("validation"))


def load_splits(spec: Spec, *, streaming: bool) -> Mapping[str, Any]:
    """The dataset's splits by name, not decoded; UserError where it cannot be loaded."""
    library, path = _require_datasets(spec), spec.path
    local = path.exists()
    if not local and (spec.place.startswith((".", "/", "~")) or spec.place.count("/") > 1):
        spec.refuse("no such file or folder")
    try:
        if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
            dataset = library.load_from_disk(str(path))
        elif path.is_file():
            dataset = library.load_dataset("parquet", data_files=str(path), streaming=streaming)
        else:
            name = str(path.resolve()) if local else spec.place
            dataset = library.load_dataset(name, spec.options.get("config"), streaming=streaming)
    except Exception as error:  # the library raises many kinds for what is a wrong name, file or connection
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:240]
        raise UserError(f"data '{spec.text}': datasets cannot load it ({reason})") from None
    return dataset if isinstance(dataset, dict) else {"train": dataset}


def choose_splits(splits: Mapping[str, Any], spec: Spec) -> dict[str, Any]:
    """The datasets for `train`, `test` and `validation`, as far as there are any; UserError without training data."""
    names = {part: spec.options[part] for part in ("train", "test", "validation") if part in spec.options}
    for part, name in names.items():
        if name not in splits:
            spec.refuse(f"no split '{name}' for {part}" + nearest(name, list(splits)))
    names.setdefault("train", "train")
    if names["train"] not in splits:
        spec.refuse(f"no split 'train' (there are: {', '.join(splits)}); name one with train=SPLIT")
    present = [name for name in _VALIDATION if name in splits and name not in names.values()]
    if "validation" not in names and present:
        names["validation"] = present[0]
    if "test" not in names and "test" in splits and "test" not in names.values():
        names["test"] = "test"
    if "test" not in names and "validation" in names:
        names["test"] = names.pop("validation")
    return {part: splits[name] for part, name in names.items()}


def find_columns(features: Mapping[str, Any] | None, spec: Spec) -> Columns:
    """The image and the label column: those asked for, else by type, else by name; UserError where that is unclear."""
    if not features:
        spec.refuse("its columns are unknown before it is read; convert it to Parquet")
    kinds = {name: type(feature).__name__ for name, feature in features.items()}
    image = _column("image", kinds, "Image", _IMAGES, spec)
    label = _column("label", kinds, "ClassLabel", _LABELS, spec)
    names = features[label].names if kinds[label] == "ClassLabel" else ()
    return Columns(image, label, tuple(str(name) for name in names))


def class_number(label: Any, classes: Sequence[str], place: str) -> int:
    """The number of a row's label, which is a number or a class name; UserError names the place of a bad one."""
    if isinstance(label, str) and label in classes:
        return classes.index(label)
    if isinstance(label, int) and 0 <= label < len(classes):
        return int(label)
    hint = "; a split without labels cannot be tested on, choose another with test=SPLIT" if label in (-1, None) else ""
    raise UserError(f"{place}: label {label!r} is none of the {len(classes)} classes{hint}")


def encoded(cell: Any, place: str) -> bytes | Path:
    """The image file in a cell, as its content or its path; UserError where there is none."""
    if isinstance(cell, dict) and isinstance(cell.get("bytes"), bytes):
        return bytes(cell["bytes"])
    if isinstance(cell, dict) and isinstance(cell.get("path"), str):
        return Path(cell["path"])
    raise UserError(f"{place}: holds no image")


def undecoded(dataset: Any, column: str, spec: Spec) -> Any:
    """The dataset with its images as files rather than decoded by the library."""
    return dataset.cast_column(column, _require_datasets(spec).Image(decode=False))


def _require_datasets(spec: Spec) -> ModuleType:
    """The library `datasets`; UserError names the extra where it is missing."""
    return require("datasets", "data", f"data '{spec.text}'")


class _Rows(Sequence[bytes | Path]):
    """The image files of a dataset, read when they are asked for."""

    def __init__(self, dataset: Any, column: str, places: Sequence[str]) -> None:
        self.dataset, self.column, self.places = dataset, column, places

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, row: Any) -> Any:
        return encoded(self.dataset[row][self.column], self.places[row])


def _pictures(dataset: Any, column: str, spec: Spec, part: str) -> EncodedImages:
    places = Numbered(f"data '{spec.text}': {part} row", len(dataset))
    files = [Path(entry["filename"]) for entry in dataset.cache_files]
    key = {"what": "datasets", "files": stamps(files), "column": column, "rows": len(dataset)} if files else None
    images = undecoded(dataset.select_columns([column]), column, spec)
    return EncodedImages(_Rows(images, column, places), places, key)


def _groups(dataset: Any, image: str, spec: Spec, part: str) -> list[str]:
    """The name of each row's group: a column, else what the pattern captures in the name of the image's file."""
    group, names = spec.group or "", list(dataset.features)
    places = Numbered(f"data '{spec.text}': {part} row", len(dataset))
    if group in names and group != image:
        return group_names(group, dataset[group], places, column=True)
    if not is_pattern(group):
        spec.refuse(f"no column '{group}' for --group{nearest(group, names)}")
    rows = undecoded(dataset.select_columns([image]), image, spec)
    return group_names(group, (file_name(row[image]) for row in rows), places, column=False)


def _column(option: str, kinds: Mapping[str, str], kind: str, names: Sequence[str], spec: Spec) -> str:
    column = spec.options.get(option)
    if column is not None:
        if column not in kinds:
            spec.refuse(f"no column '{column}'" + nearest(column, list(kinds)))
        return column
    typed = [name for name, kind_of_column in kinds.items() if kind_of_column == kind]
    named = [name for name in names if name in (typed or kinds)]
    if not named and len(typed) != 1:
        spec.refuse(f"which column is the {option}? Say {option}=COLUMN (there are: {', '.join(kinds)})")
    return named[0] if named else typed[0]


def _names(labels: Sequence[Any], place: str) -> tuple[str, ...]:
    """Class names where the dataset has none: the labels that occur, or all numbers up to the largest."""
    if all(isinstance(label, str) for label in labels):
        return tuple(sorted(set(labels)))
    return numbered(max((label for label in labels if isinstance(label, int)), default=0), place)
