"""A check-up before anything is trained: this machine, the data, the teacher, the place for results."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import torch

from robust_student.data import Data, Examples, Stream, load_data, split, stratified_sample
from robust_student.data_checks import check_data
from robust_student.findings import Finding
from robust_student.machine_checks import check_arithmetic, check_devices, check_output, check_packages
from robust_student.runs import Model, load, require_fit, resolve_device
from robust_student.settings import TrainingSettings
from robust_student.teacher_checks import (
    check_accuracy,
    check_gradients,
    check_outputs,
    describe_teacher,
    sample_inputs,
)
from robust_student.tensors import UserError

VALIDATED = 1000
"""Validation examples that a teacher's accuracy is looked at on."""
T = TypeVar("T")


def examine(
    *, data: str | None = None, teacher: str | None = None, device: str = "auto", output: Path | None = None
) -> list[Finding]:
    """Everything that a check-up finds, in the order looked at; a part that fails does not stop the others.

    Args:
        data: a spec for `load_data`; None: no data are looked at.
        teacher: run directory; None: no teacher is looked at.
        device: where to compute, as `resolve_device` takes it.
        output: directory that results are to be written to; None: not looked at.
    """
    findings = check_packages() + check_devices(device)
    chosen = torch.device("cpu")
    with suppress(UserError):  # check_devices has found it
        chosen = resolve_device(device)
    findings += check_arithmetic(chosen)
    if output is not None:
        findings += check_output(output)
    guide = None
    if teacher is not None:
        guide, found = _opened(lambda: load(teacher, device=chosen), "teacher")
        findings += found
    loaded = None
    if data is not None:
        shape = guide.card.input_shape if guide is not None else None
        loaded, found = _opened(lambda: load_data(data, shape=shape), "data")
        findings += found
        findings += check_data(loaded) if loaded is not None else []
    if guide is not None:
        findings += examine_teacher(guide, loaded)
    return findings


def examine_teacher(teacher: Model, data: Data | None) -> list[Finding]:
    """What is wrong with a teacher, and how accurate it is where there are data to see it on."""
    validation = None
    findings = []
    if data is None:
        findings.append(Finding("teacher", "note", "its accuracy is not looked at", "name its data with --data"))
    else:
        try:
            require_fit(teacher, data, "it")
        except UserError as error:
            fix = "choose the data that it was trained on, or train it on these"
            return [Finding("teacher", "problem", str(error), fix)]
        validation = validation_sample(data)
    inputs = sample_inputs(validation, teacher)
    findings.insert(0, describe_teacher(teacher, inputs, len(data.train) if data is not None else None))
    findings += check_outputs(teacher, inputs)
    findings += check_gradients(teacher, inputs)
    if validation is not None:
        findings.append(check_accuracy(teacher, validation))
    return findings


def validation_sample(data: Data) -> Examples | None:
    """At most VALIDATED examples on which training would choose its epoch; None where that takes a stream apart."""
    examples = data.validation
    if examples is None:
        if isinstance(data.train, Stream):
            return None
        defaults = TrainingSettings()
        _, examples = split(data.train, defaults.validation_fraction, defaults.seed)
    return examples.subset(stratified_sample(examples.labels, min(VALIDATED, len(examples)), seed=0))


def _opened(load_it: Callable[[], T], area: str) -> tuple[T | None, list[Finding]]:
    """What is loaded, or the finding that says why it cannot be."""
    try:
        return load_it(), []
    except UserError as error:
        text, _, fix = str(error).partition("; ")
        return None, [Finding(area, "problem", text, fix or "put that right and look again")]
