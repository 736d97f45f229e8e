"""What `demo` does: a teacher and two students on embedded data, their evaluation and its report."""

from collections.abc import Callable
from pathlib import Path

from robust_student.data.readers.load import load_data
from robust_student.evaluation.evaluate import evaluate
from robust_student.evaluation.result import Evaluation
from robust_student.evaluation.settings import EvaluationSettings
from robust_student.objectives.methods import METHODS
from robust_student.report.write import write_report
from robust_student.results.rows import BREAKDOWN, EVALUATION, GALLERY, ROWS, SUMMARY
from robust_student.training.settings import DistillSettings, SelectionSettings, TrainingSettings
from robust_student.training.train import distill, train

TEACHER, STUDENT = "cnn:24", "resnet8:4"
"""56,074 and 4,934 parameters on 8x8 digits."""
_BUDGET = 0.1
"""Linf budget of AutoAttack, in pixels of [0, 1]."""
FILES = ("report.html", ROWS, SUMMARY, BREAKDOWN, EVALUATION, GALLERY)
"""What a demo leaves beside the models."""


def run_demo(
    output: Path, *, seed: int = 0, device: str = "auto", say: Callable[[str], None] = lambda _: None
) -> Evaluation:
    """Train, distil, evaluate and report on the digits; fill `output` and return the evaluation.

    `output/models` holds the runs `teacher`, `kd` and `robust`; beside it lie `report.html`, `summary.json` and the
    rows. `say` is told what is being done.
    """
    data = load_data("digits")
    models = output / "models"
    models.mkdir(parents=True)
    common = {"batch_size": 64, "seed": seed, "device": device}
    teacher_settings = TrainingSettings(epochs=20, selection=SelectionSettings(metric="accuracy"), **common)
    student_settings = TrainingSettings(epochs=80, **common)
    say(f"1 of 4: training the teacher {TEACHER} on the embedded digits")
    teacher = train(TEACHER, data, teacher_settings, output=models / "teacher").model
    students = {}
    for number, (name, objective) in enumerate({"kd": METHODS["kd"], "robust": METHODS["persistent"]}.items(), start=2):
        say(f"{number} of 4: distilling the student '{name}' ({STUDENT})")
        both = DistillSettings(training=student_settings, objective=objective)
        students[name] = distill(teacher, STUDENT, data, both, output=models / name).model
    say("4 of 4: measuring all three under noise and attack")
    settings = EvaluationSettings(
        attack_examples=200, autoattack="fast", autoattack_radius=_BUDGET, seed=seed, device=device
    )
    evaluation = evaluate({"teacher": teacher, **students}, data, settings, output=output)
    write_report(output, output / "report.html")
    return evaluation
