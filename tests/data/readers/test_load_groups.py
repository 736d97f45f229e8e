"""Groups of every source that has names or columns, and splits that leave them whole."""

import json
import logging
from pathlib import Path

import datasets
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from data_sources import only_value, refusal, save_image
from parquet_files import encoded

from robust_student.data.examples import Data, Examples
from robust_student.data.readers.load import READERS, load_data
from robust_student.data.samples import training_and_validation


def person_of(examples: Examples) -> set[int]:
    """The sources here write the number of a person into every pixel or feature."""
    return {only_value(image) for image in examples.inputs}


def assert_whole(data: Data, people: int) -> None:
    """Training, validation and test share nobody, and everybody is in one of them."""
    train, validation = training_and_validation(data, 0.2, 0)
    assert isinstance(train, Examples)
    parts = [person_of(part) for part in (train, validation, data.test)]
    assert all(parts) and sum(map(len, parts)) == len(set.union(*parts)) == people


def folder(root: Path, people: int = 10) -> Path:
    for person in range(people):
        for k, name in enumerate(("cat", "dog")):
            for shot in range(3):
                pixels = np.full((6, 6), person, np.uint8)
                save_image(root / name / f"person{person:02}_{k}{shot}.png", pixels)
    return root


def test_a_folder_by_a_pattern(tmp_path: Path) -> None:
    spec = f"folder:{folder(tmp_path)}"
    data = load_data(spec, group="person(..)_")
    assert data.group == "person(..)_" and len(data.test) == 12
    assert_whole(data, 10)
    assert load_data(spec, group="none").group is None
    assert len(person_of(load_data(spec).test) & person_of(load_data(spec).training_examples)) > 0


def test_paths_of_a_folder_are_those_below_its_part(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for part in ("train", "test"):
        folder(tmp_path / part, 4)
    with caplog.at_level(logging.WARNING):
        data = load_data(f"folder:{tmp_path}", group="^(?:cat|dog)/([^_]*)_")
    assert data.training_examples.groups is not None and len(set(data.training_examples.groups.tolist())) == 4
    assert "4 groups of the training part are in the test part, too" in caplog.text
    message = refusal(f"folder:{tmp_path}", group="track([0-9]+)")
    assert "finds nothing in its name 'cat/person00_00.png'" in message and "--group none" in message
    assert "capture groups" in refusal(f"folder:{tmp_path}", group="person")


def write_rows(path: Path, people: range, *, named: bool = True) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [(person, k, shot) for person in people for k in range(2) for shot in range(3)]
    files = [encoded(np.full((6, 6), person, np.uint8)) for person, _, _ in rows]
    names = [f"{k}/{person:02}_{shot}.png" if named else None for person, k, shot in rows]
    images = [{"bytes": content, "path": name} for content, name in zip(files, names, strict=True)]
    columns = {"label": [k for _, k, _ in rows], "image": images, "person": [person for person, _, _ in rows]}
    table = pyarrow.table(columns)
    features = {"info": {"features": {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}}
    table = table.replace_schema_metadata({b"huggingface": json.dumps(features).encode()})
    pyarrow.parquet.write_table(table, path, row_group_size=4)


@pytest.mark.parametrize("group", ["person", "/(..)_", "[0-9]/([0-9]+)_[0-9]"])
@pytest.mark.parametrize("kind", ["parquet", "hf"])
def test_tables_of_images_by_a_column_or_by_names(kind: str, group: str, tmp_path: Path) -> None:
    write_rows(tmp_path / "train-0.parquet", range(8))
    write_rows(tmp_path / "test-0.parquet", range(8, 10))
    data = load_data(f"{kind}:{tmp_path}", group=group)
    assert data.group == group
    assert_whole(data, 10)


def test_a_hugging_face_dataset_without_a_test_split(tmp_path: Path) -> None:
    write_rows(tmp_path / "all.parquet", range(10))
    rows = datasets.load_dataset("parquet", data_files=str(tmp_path / "all.parquet"), cache_dir=str(tmp_path / "cache"))
    rows["train"].save_to_disk(str(tmp_path / "saved"))
    assert_whole(load_data(f"hf:{tmp_path / 'saved'}", group="person"), 10)


@pytest.mark.parametrize("kind", ["parquet", "hf"])
def test_what_a_table_of_images_has_not_is_refused(kind: str, tmp_path: Path) -> None:
    for part in ("train", "test"):
        write_rows(tmp_path / f"{part}-0.parquet", range(4), named=False)
    spec = f"{kind}:{tmp_path}"
    assert "no column 'persn' for --group; did you mean 'person'?" in refusal(spec, group="persn")
    assert "row 0: has no name of a file" in refusal(spec, group="(.*)_")


def write_csv(path: Path, people: int = 10) -> Path:
    rows = [f"{person},{person},{'ab'[k]},p{person}" for person in range(people) for k in range(2) for _ in range(3)]
    path.write_text("\n".join(["width,height,kind,who", *rows]))
    return path


def test_a_csv_file_by_a_column_which_is_no_feature(tmp_path: Path) -> None:
    spec = f"csv:{write_csv(tmp_path / 'table.csv')},label=kind"
    data = load_data(spec, group="who")
    assert data.shape == (2,)
    assert_whole(data, 10)
    assert "column 'who': 'p0' is not a finite number" in refusal(spec)
    assert "no column 'whom' for --group; did you mean 'who'?" in refusal(spec, group="whom")
    assert "no column 'kind' for --group" in refusal(spec, group="kind")


def test_a_csv_row_without_a_group_is_refused(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "table.csv", 2)
    path.write_text(path.read_text() + "\n1,1,a,")
    assert "row 13, column 'who': the group is missing" in refusal(f"csv:{path},label=kind", group="who")


def test_a_csv_file_needs_a_feature_beside_label_and_group(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("kind,who\na,1\nb,2")
    assert "has no column besides 'kind' and 'who'" in refusal(f"csv:{path},label=kind", group="who")


@pytest.mark.parametrize("kind", sorted(name for name, reader in READERS.items() if not reader.grouped))
def test_a_source_without_names_and_columns_is_refused(kind: str, tmp_path: Path) -> None:
    spec = kind if kind == "digits" else f"{kind}:{tmp_path}"
    assert "group applies to folder:, parquet:, csv:, hf: only" in refusal(spec, group="(a)")


def test_one_group_is_refused_and_a_coarse_test_part_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    spec = f"folder:{folder(tmp_path, 2)}"
    assert "all are in one group" in refusal(spec, group="(person)")
    with caplog.at_level(logging.WARNING):
        load_data(spec, group="person(..)_")
    assert "group: test part: 50% of the examples are held out instead of 20%" in caplog.text
