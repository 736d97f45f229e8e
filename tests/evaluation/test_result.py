"""What evaluate and certify return: looked up, shown as a table, reported."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from reference import message_of

from robust_student.evaluation.result import Certification, Evaluation, Record


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
