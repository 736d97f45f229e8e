"""A check-up before anything is trained: this machine, the data, the teacher, the place for results."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import torch

from robust_student.core.errors import UserError
from robust_student.data.readers.load import Data, Examples, Stream, load_data, require_outside, stratified_sample
from robust_student.data.samples import training_and_validation
from robust_student.doctor.data import check_data
from robust_student.doctor.findings import Finding
from robust_student.doctor.image_files import ImageFiles, check_sizes
from robust_student.doctor.machine import check_arithmetic, check_devices, check_output, check_packages
from robust_student.doctor.teacher import (
    check_accuracy,
    check_gradients,
    check_normalisation,
    check_outputs,
    describe_teacher,
    sample_inputs,
)
from robust_student.models.model import Model
from robust_student.models.open_model import expected_shape, open_model
from robust_student.models.settings import TeacherSettings
from robust_student.runtime.hardware import resolve_device
from robust_student.training.settings import TrainingSettings
from robust_student.training.teacher import CHECKED_EXAMPLES

_T = TypeVar("_T")


def examine(
    *,
    data: str | None = None,
    teacher: str | None = None,
    teaching: TeacherSettings | None = None,
    device: str = "auto",
    output: Path | None = None,
    trust: bool = False,
) -> list[Finding]:
    """Everything that a check-up finds, in the order looked at; a part that fails does not stop the others.

    Args:
        data: a spec for `load_data`; None: no data are looked at.
        teacher: a spec for `open_model`; None: no teacher is looked at.
        teaching: what the teacher expects of its inputs, and how accurate it is said to be.
        device: where to compute, as `resolve_device` takes it.
        output: directory that results are to be written to; None: not looked at.
        trust: whether the teacher's own code may be called (see `open_model`).
    """
    settings = teaching if teaching is not None else TeacherSettings()
    findings = check_packages() + check_devices(device)
    chosen = torch.device("cpu")
    with suppress(UserError):  # check_devices has found it
        chosen = resolve_device(device)
    findings += check_arithmetic(chosen)
    if output is not None:
        findings += check_output(output)
    if output is not None and data is not None:
        findings += _opened(lambda: require_outside(output, data), "output")[1]
    loaded = None
    if data is not None:
        shape = None
        with suppress(UserError):  # opening the teacher finds it
            shape = expected_shape([teacher]) if teacher is not None else None
        loaded, problems = _opened(lambda: load_data(data, shape=shape), "data")
        findings += problems
        if loaded is not None:
            files = ImageFiles.of(data)
            findings += check_data(loaded, files=files)
            findings += [] if files is None else [check_sizes(files, loaded.shape, expected=shape is not None)]
    if teacher is not None:
        guide, problems = _opened(lambda: open_model(teacher, loaded, settings, trust=trust, role="teacher"), "teacher")
        findings += problems
        findings += _examine_teacher(guide.to(chosen), loaded, settings) if guide is not None else []
    return findings


def _examine_teacher(teacher: Model, data: Data | None, settings: TeacherSettings) -> list[Finding]:
    """What is wrong with an opened teacher, and how accurate it is where there are data to see it on."""
    parts = training_parts(data) if data is not None else None
    validation = parts[1] if parts is not None else None
    inputs = sample_inputs(validation, teacher)
    findings = [describe_teacher(teacher, inputs, len(data.train) if data is not None else None)]
    findings += check_outputs(teacher, inputs)
    findings += check_gradients(teacher, inputs)
    if data is not None and parts is not None and validation is not None and settings.teacher_check:
        findings += check_normalisation(teacher, data, *parts)
        findings.append(check_accuracy(teacher, validation, settings.teacher_accuracy))
    elif settings.teacher_check:
        fix = "name its data with --data" if data is None else "give the stream a validation part"
        findings.append(Finding("teacher", "note", "its accuracy was not checked", fix))
    return findings


def training_parts(data: Data) -> tuple[Examples | Stream, Examples] | None:
    """What would be trained on, and some of what an epoch would be chosen on, at most CHECKED_EXAMPLES.

    None: a stream of which nothing can be held out.
    """
    defaults = TrainingSettings()
    try:
        source, examples = training_and_validation(data, defaults.validation_fraction, defaults.seed)
    except UserError:
        return None
    sample = stratified_sample(examples.labels, min(CHECKED_EXAMPLES, len(examples)), seed=0)
    return source, examples.subset(sample)


def _opened(load_it: Callable[[], _T], area: str) -> tuple[_T | None, list[Finding]]:
    """What is loaded, or the finding that says why it cannot be."""
    try:
        return load_it(), []
    except UserError as error:
        text, _, fix = str(error).partition("; ")
        return None, [Finding(area, "problem", text, fix or "mend it, then run doctor again")]
