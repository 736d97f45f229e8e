"""What evaluate and certify return: looked up, shown as a table, reported."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from reference import message_of

from robust_student.core.errors import UserError
from robust_student.evaluation.result import Certification, Evaluation, Record
from robust_student.results.records import summarise
from robust_student.results.rows import ROWS, SUMMARY, Row, group
from robust_student.runtime.files import append_jsonl, write_json


def record(model: str = "kd", perturbation: str = "none", setting: float | None = None, **changes: Any) -> Record:
    plain = Record(model, "test", perturbation, setting, None, "accuracy", 0.5, 0.4, 0.6, "wilson95", 40, 0, None)
    return replace(plain, **changes)


EVALUATION = Evaluation(
    Path("there"),
    (
        record(),
        record("new", value=None),
        record(perturbation="pgd_linf", setting=0.2, verdict={"level": "WARN"}),
        record(perturbation="pgd_linf", setting=0.1, verdict={"level": "PASS"}),
        record(perturbation="autoattack_linf", setting=0.1, verdict={"level": "FAIL"}),
    ),
)


def test_an_accuracy_is_found_by_model_perturbation_and_setting() -> None:
    assert EVALUATION.accuracy("kd") is EVALUATION.records[0]
    assert EVALUATION.accuracy("kd", "pgd_linf", 0.1) is EVALUATION.records[3]
    assert EVALUATION.accuracy("kd", "autoattack_linf").setting == 0.1


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (("kdd",), "no model 'kdd'; did you mean 'kd'?"),
        (("kd", "pgd_lnf"), "no perturbation 'pgd_lnf'; did you mean 'pgd_linf'?"),
        (("kd", "pgd_linf"), "name a setting; measured at 0.2, 0.1"),
        (("kd", "pgd_linf", 0.3), "no setting 0.3; measured at 0.2, 0.1"),
    ],
)
def test_what_was_not_measured_is_said_with_what_was(asked: tuple[str, str, float], words: str) -> None:
    assert words in message_of(lambda: EVALUATION.accuracy(*asked))


def test_records_of_a_metric_come_by_growing_setting() -> None:
    assert [record.setting for record in EVALUATION.every("accuracy", model="kd")] == [None, 0.1, 0.1, 0.2]
    assert EVALUATION.every("accuracy", "pgd_linf", "new") == []


def saved(folder: Path, sizes: tuple[int, int]) -> Evaluation:
    """Two classes of these sizes; all examples of the first and one of the second are decided rightly."""
    labels = [0] * sizes[0] + [1] * sizes[1]
    rows = [
        Row("kd", "none", None, i, label, int(i == sizes[0]), label == int(i == sizes[0]))
        for i, label in enumerate(labels)
    ]
    append_jsonl(folder / ROWS, [asdict(row) for row in rows])
    write_json(folder / SUMMARY, summarise(group(rows), verdicts={}, costs={}, baseline=None, seed=0))
    return Evaluation.read(folder)


def test_classes_are_measured_from_the_rows(tmp_path: Path) -> None:
    evaluation = saved(tmp_path, (6, 2))
    assert evaluation.balanced_accuracy("kd").value == 0.75 and evaluation.accuracy("kd").value == 7 / 8
    assert evaluation.confusion("kd").counts == ((6, 0), (1, 1))
    first, second = evaluation.classes("kd")
    assert (first.recall.value, second.recall.value, second.precision.value) == (1, 0.5, 1)
    assert first.precision.value == 6 / 7 and second.f1 == pytest.approx(2 / 3)
    with pytest.raises(UserError, match="no model 'other'"):
        evaluation.confusion("other")


def test_the_table_has_balanced_accuracies_where_classes_are_unbalanced(tmp_path: Path) -> None:
    even, uneven = tmp_path / "even", tmp_path / "uneven"
    even.mkdir()
    uneven.mkdir()
    assert not saved(even, (3, 2)).unbalanced
    assert "balanced" not in Evaluation.read(even).table()
    lines = saved(uneven, (6, 2)).table().splitlines()
    assert [line.split(" | ")[0].strip("| ") for line in lines[2:]] == ["none", "none, balanced"]
    assert "87.5 [" in lines[2] and "75.0 [" in lines[3]


def test_the_table_has_a_line_for_each_perturbation_and_marks_doubts() -> None:
    assert EVALUATION.table().splitlines() == [
        "| accuracy in %       | kd                       | new |",
        "| ------------------- | ------------------------ | --- |",
        "| none                | 50.0 [40.0, 60.0]        | -   |",
        "| pgd_linf 0.2        | 50.0 [40.0, 60.0] *WARN* | -   |",
        "| pgd_linf 0.1        | 50.0 [40.0, 60.0]        | -   |",
        "| autoattack_linf 0.1 | 50.0 [40.0, 60.0] *FAIL* | -   |",
    ]


def test_a_certification_tells_what_is_proven_from_what_no_attack_changed() -> None:
    proven = record(perturbation="certified_decision_radius", setting=0.1, metric="certified_accuracy", value=0.25)
    stands = record(perturbation="attack_decision_radius", setting=0.1, metric="attack_accuracy", value=0.75)
    certification = Certification(Path("there"), (proven, stands))
    assert certification.certified_accuracy("kd", 0.1) is proven and certification.attack_accuracy("kd", 0.1) is stands
    assert [line.split(" | ")[1][:4] for line in certification.table().splitlines()[2:]] == ["25.0", "75.0"]


def test_the_report_is_written_as_its_suffix_says(finished: Path, tmp_path: Path) -> None:
    evaluation = Evaluation.read(finished)
    assert evaluation.report(tmp_path / "r.html").read_text(encoding="utf-8").lower().startswith("<!doctype html>")
    assert json.loads(evaluation.report(tmp_path / "r.json").read_text(encoding="utf-8"))
    assert evaluation.report(tmp_path / "r.md").read_text(encoding="utf-8").startswith("# ")
    assert "ends in none of" in message_of(lambda: evaluation.report(tmp_path / "r.pdf"))
