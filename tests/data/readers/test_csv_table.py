"""CSV files: what is read, and the row and column of what cannot be."""

import csv
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference import as_numpy, message_of

from robust_student import TrainingSettings, train
from robust_student.core.norms import Norm
from robust_student.core.tensors import UNBOUNDED
from robust_student.data.readers.csv_table import read_table
from robust_student.data.readers.load import load_data

HEADER = ["width", "label", "height"]
ROWS = [[1.5, "cat", -2], [2, "dog", 3e5], [0.25, "cat", 7], [-1, "owl", 8], [1, "dog", 9], [3, "owl", 1]]


def write(path: Path, header: list[str] = HEADER, rows: list[list[Any]] = ROWS, delimiter: str = ",") -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerows([header, *rows])
    return path


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_features_labels_and_class_names_are_those_of_the_file(delimiter: str, tmp_path: Path) -> None:
    path = write(tmp_path / "some.csv", delimiter=delimiter)
    data = load_data(f"csv:{path},test={path},validation={path}")
    expected = torch.tensor([[row[0], row[2]] for row in ROWS])
    assert data.validation is not None
    for part in (data.training_examples, data.test, data.validation):
        assert torch.equal(part.inputs, expected) and part.labels.tolist() == [0, 1, 0, 2, 1, 2]
    assert data.classes == ("cat", "dog", "owl") and data.shape == (2,) and data.name == "some"


def test_another_column_may_hold_the_label(tmp_path: Path) -> None:
    rows = [[1, 10, 2.5], [9, 10, 3.5], [10, 2, 4.5], [2, 2, 5.5], [1, 10, 6.5]]
    path = write(tmp_path / "some.csv", ["kind", "label", "size"], rows)
    data = load_data(f"csv:{path},label=kind,test={path}")
    assert data.classes == ("1", "2", "9", "10")  # whole numbers in their order
    assert data.training_examples.labels.tolist() == [0, 2, 3, 1, 0]
    assert data.training_examples.inputs.tolist() == [[10, 2.5], [10, 3.5], [2, 4.5], [2, 5.5], [10, 6.5]]


def test_radii_are_in_standard_deviations_of_the_training_set(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    table = rng.normal(3.0, (0.1, 1.0, 50.0), (60, 3))
    table[:, 1] = 0.5
    paths = [tmp_path / f"{name}.csv" for name in ("one", "two")]
    for path, part in zip(paths, (table[:40], table[40:]), strict=True):
        write(path, ["a", "b", "c", "label"], [[*row, k % 2] for k, row in enumerate(part.tolist())])
    data = load_data(f"csv:{paths[0]},test={paths[1]}")
    deviations = table[:40].std(axis=0)
    assert data.input_range == UNBOUNDED and data.scale is not None
    np.testing.assert_allclose(as_numpy(data.scale), [deviations[0], 1, deviations[2]], rtol=1e-5)
    step = torch.tensor([[deviations[0], 0.0, 0.0], [0.0, 0.0, 2 * deviations[2]]]).float()
    np.testing.assert_allclose(as_numpy(Norm.named("l2", data.scale).size(step)), [1, 2], rtol=1e-5)
    mean, std = data.statistics()
    np.testing.assert_allclose(as_numpy(mean), table[:40].mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(as_numpy(std), [deviations[0], 1, deviations[2]], rtol=1e-5)


def test_features_inside_the_unit_interval_are_standardised_as_well(tmp_path: Path) -> None:
    rows = [[0.1 * k, k % 2] for k in range(10)]
    data = load_data(f"csv:{write(tmp_path / 'some.csv', ['a', 'label'], rows)}")
    assert data.input_range == UNBOUNDED and data.scale is not None and (len(data.train), len(data.test)) == (8, 2)


def test_a_network_learns_from_a_table(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 300)
    table = rng.normal(0, 1, (300, 2)) * [1, 1000] + labels[:, None] * [4, 4000]
    rows = [[*row, ("no", "yes")[k]] for row, k in zip(table.tolist(), labels.tolist(), strict=True)]
    data = load_data(f"csv:{write(tmp_path / 'some.csv', ['a', 'b', 'label'], rows)}")
    model = train("linear", data, TrainingSettings(epochs=5, batch_size=16, learning_rate=0.05)).model
    right = model.logits(data.test.floats()).argmax(dim=1) == data.test.labels
    assert float(right.double().mean()) > 0.9


@pytest.mark.parametrize(
    ("header", "rows", "words"),
    [
        (HEADER, [*ROWS, [1, "cat", ""]], "row 7, column 'height': the value is missing"),
        (HEADER, [*ROWS[:2], [" ", "cat", 1], *ROWS], "row 3, column 'width': the value is missing"),
        (HEADER, [[1, "cat", "red"], *ROWS], "row 1, column 'height': 'red' is not a finite number"),
        (HEADER, [[1, "cat", "nan"], *ROWS], "row 1, column 'height': 'nan' is not a finite number"),
        (HEADER, [["-inf", "cat", 1], *ROWS], "row 1, column 'width': '-inf' is not a finite number"),
        (HEADER, [[1e39, "cat", 1], *ROWS], "row 1, column 'width': '1e+39' is not a finite number"),
        (HEADER, [["1_000", "cat", 1], *ROWS], "row 1, column 'width': '1_000' is not a finite number"),
        (HEADER, [[1, "", 1], *ROWS], "row 1, column 'label': the label is missing"),
        (HEADER, [[1, "cat"], *ROWS], "row 1: has 2 cells, the header 3"),
        (HEADER, [[1, "cat", 2, 3], *ROWS], "row 1: has 4 cells, the header 3"),
        (HEADER, [], "holds no rows"),
        ([], [], "holds no rows"),
        (["a", "a", "label"], ROWS, "two columns are called 'a'"),
        (["a", "lable", "b"], ROWS, "no column 'label'; did you mean 'lable'"),
        (["a", "b", "c"], ROWS, "choose from a, b, c (label=COLUMN says which)"),
        (["label"], [["cat"], ["dog"]], "no column besides 'label'"),
        (HEADER, [[1, "cat", 2]] * 10, "only 1 class"),
    ],
)
def test_bad_tables_are_refused_with_row_and_column(
    header: list[str], rows: list[list[Any]], words: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "some.csv", header, rows)
    message = message_of(lambda: load_data(f"csv:{path}"))
    assert words in message and str(path) in message


def test_parts_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "some.csv")
    other = write(tmp_path / "other.csv", ["width", "label", "depth"])
    assert "its columns are not those of" in message_of(lambda: load_data(f"csv:{path},test={other}"))
    other = write(tmp_path / "other.csv", rows=[*ROWS, [1, "emu", 1]])
    assert "row 7: class 'emu' has no training examples" in message_of(lambda: load_data(f"csv:{path},test={other}"))
    assert "other.csv" in message_of(lambda: load_data(f"csv:{path},validation={other}"))
    assert "gone.csv: cannot read it" in message_of(lambda: load_data(f"csv:{tmp_path / 'gone.csv'}"))


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b'a,label\n1,"open', b"\0"])
def test_damaged_files_are_refused_in_one_line(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "some.csv").write_bytes(content)
    assert "some.csv" in message_of(lambda: load_data(f"csv:{tmp_path / 'some.csv'}"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("lable=kind", "unknown option 'lable'; did you mean 'label'"),
        ("label=a,label=b", "option 'label' is given twice"),
        ("label=", "option 'label' has no value"),
    ],
)
def test_bad_options_are_refused(options: str, words: str, tmp_path: Path) -> None:
    path = write(tmp_path / "some.csv")
    assert words in message_of(lambda: load_data(f"csv:{path},{options}"))


def test_a_comma_in_a_path_is_part_of_it(tmp_path: Path) -> None:
    path = write(tmp_path / "a,b.csv")
    assert load_data(f"csv:{path},label=label,test={path}").name == "a,b"


def test_windows_files_with_a_byte_order_mark_read_alike(tmp_path: Path) -> None:
    path = write(tmp_path / "some.csv")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read_table(path, "label").features == ("width", "height")


NUMBERS = st.floats(-1e30, 1e30, allow_nan=False)


@given(
    st.integers(1, 4).flatmap(
        lambda n: st.lists(st.tuples(*[NUMBERS] * n, st.text("ab;\"', \n", max_size=6)), min_size=1, max_size=8)
    )
)
def test_what_is_written_is_read_back(rows: list[tuple[Any, ...]]) -> None:
    named = [[*row[:-1], f"x{row[-1]}"] for row in rows]
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder) / "some.csv", [*(f"f{k}" for k in range(len(rows[0]) - 1)), "label"], named)
        table = read_table(path, "label")
    assert table.labels == [row[-1].strip() for row in named]
    np.testing.assert_array_equal(table.rows, np.array([row[:-1] for row in rows], np.float32))
