"""--group from training to evaluation: the run keeps it, and what is measured lies on the other side."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from command_line import refused, run
from data_sources import save_image

from robust_student.data.readers.load import load_data
from robust_student.models.run_directory import load

PATTERN = "(person[0-9]+)_"


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder of two classes, five persons and six images of each person in each class."""
    root, rng = tmp_path_factory.mktemp("people"), np.random.default_rng(0)
    for person in range(5):
        for k, name in enumerate(("cat", "dog")):
            for shot in range(6):
                pixels = (60 + 130 * k + rng.integers(-30, 30, (8, 8))).astype(np.uint8)
                save_image(root / name / f"person{person}_{shot}.png", pixels)
    return f"folder:{root}"


@pytest.fixture(scope="module")
def teacher(people: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was trained with groups."""
    output = tmp_path_factory.mktemp("runs") / "teacher"
    run("train", "--data", people, "--model", "linear", "--epochs", "2", "--output", str(output), "--group", PATTERN)
    return output


def measured_by(output: Path) -> set[int]:
    """Numbers of the test examples that an evaluation measured."""
    return {json.loads(line)["index"] for line in (output / "rows.jsonl").read_text().splitlines()}


def evaluate(people: str, output: Path, *words: str) -> None:
    quick = ["--suite", "quick", "--autoattack", "none", "--device", "cpu"]
    run("evaluate", *words, "--data", people, "--output", str(output), *quick)


def test_the_run_keeps_the_pattern_and_distill_and_evaluate_follow_it(
    people: str, teacher: Path, tmp_path: Path
) -> None:
    assert load(teacher).card.provenance["group"] == PATTERN
    student = tmp_path / "student"
    words = ["--method", "kd", "--model", "linear", "--epochs", "1", "--output", str(student)]
    run("distill", "--teacher", str(teacher), "--data", people, *words)
    assert load(student).card.provenance["group"] == PATTERN
    grouped, alone = load_data(people, group=PATTERN).test, load_data(people).test
    assert len(grouped) != len(alone)
    evaluate(people, tmp_path / "evaluation", str(student))
    assert measured_by(tmp_path / "evaluation") == set(range(len(grouped)))
    assert json.loads((tmp_path / "evaluation" / "evaluation.json").read_text())["fingerprint"]["group"] == PATTERN
    evaluate(people, tmp_path / "other", str(student), "--group", "none")
    assert measured_by(tmp_path / "other") == set(range(len(alone)))


def test_an_evaluation_goes_on_with_its_own_groups_only(
    people: str, teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate(people, tmp_path / "evaluation", str(teacher))
    (tmp_path / "evaluation" / "summary.json").unlink()
    words = ["evaluate", str(teacher), "--data", people, "--output", str(tmp_path / "evaluation"), "--suite", "quick"]
    words += ["--autoattack", "none", "--device", "cpu", "--group", "(person)"]
    assert "all are in one group" in refused(capsys, *words)
    words[-1] = "(n[0-9])_"
    assert "group: (person[0-9]+)_ there, (n[0-9])_ here" in refused(capsys, *words)


def test_workers_measure_the_same_groups(people: str, teacher: Path, tmp_path: Path) -> None:
    evaluate(people, tmp_path / "evaluation", str(teacher), "--workers", "2", "--group", "(n[0-9])_")
    assert measured_by(tmp_path / "evaluation") == set(range(len(load_data(people, group=PATTERN).test)))


def test_runs_of_different_groups_are_said(
    people: str, teacher: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    words = ["train", "--data", people, "--model", "linear", "--epochs", "1", "--output", str(tmp_path / "plain")]
    run(*words)
    assert "group" not in load(tmp_path / "plain").card.provenance
    with caplog.at_level(logging.WARNING):
        evaluate(people, tmp_path / "evaluation", str(teacher), str(tmp_path / "plain"))
    assert f"'{PATTERN}' is used, as in training, but '{tmp_path / 'plain'}' was trained with no groups" in caplog.text


def test_a_coarse_validation_set_is_said(people: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    words = ["train", "--data", people, "--model", "linear", "--epochs", "1", "--output", str(tmp_path / "run")]
    with caplog.at_level(logging.WARNING):
        run(*words, "--group", PATTERN)
    assert "group: validation: 25% of the examples are held out instead of 10%" in caplog.text
