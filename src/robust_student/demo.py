"""The main job in one call: teacher, plain student and robust student on embedded data, measured and reported."""

from pathlib import Path
from typing import Any

from robust_student.data import load_data
from robust_student.evaluation import evaluate
from robust_student.report import write_report
from robust_student.results import EVALUATION, GALLERY, ROWS, SUMMARY
from robust_student.settings import (
    METHODS,
    DistillSettings,
    EvaluationSettings,
    SelectionSettings,
    TrainingSettings,
)
from robust_student.training import distill, train

TEACHER, STUDENT = "cnn:24", "cnn:4"
"""39,250 and 2,230 parameters on 8x8 digits."""
BUDGET = 0.1
"""Linf budget of AutoAttack and of the selection metric, in pixels of [0, 1]."""


def run_demo(output: Path, *, seed: int = 0, device: str = "auto") -> list[dict[str, Any]]:
    """Train, distil, evaluate and report on the digits; fill `output` and return the summary records.

    `output/models` holds the runs `teacher`, `kd` and `robust`; beside it lie `report.html`, `summary.json` and the
    rows. Objective weights were chosen on validation examples (docs/results.md).
    """
    data = load_data("digits")
    models = output / "models"
    models.mkdir(parents=True)
    common = {"batch_size": 64, "seed": seed, "device": device}
    teacher_settings = TrainingSettings(epochs=20, selection=SelectionSettings(metric="accuracy"), **common)
    student_settings = TrainingSettings(epochs=60, selection=SelectionSettings(radius=BUDGET), **common)
    teacher = train(TEACHER, data, teacher_settings, output=models / "teacher").model
    students = {
        name: distill(
            teacher,
            STUDENT,
            data,
            DistillSettings(training=student_settings, objective=objective),
            output=models / name,
        ).model
        for name, objective in {"kd": METHODS["kd"], "robust": ROBUST}.items()
    }
    settings = EvaluationSettings(attack_examples=200, autoattack_radius=BUDGET, seed=seed, device=device)
    records = evaluate({"teacher": teacher, **students}, data, settings, output=output)
    write_report(output, output / "report.html")
    return records


ROBUST = METHODS["secant"].model_copy(update={"radius": 0.15})
FILES = ("report.html", ROWS, SUMMARY, EVALUATION, GALLERY)
