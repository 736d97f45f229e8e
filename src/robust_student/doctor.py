"""A check-up before anything is trained: this machine, the data, the teacher, the place for results."""

import math
from collections.abc import Callable
from pathlib import Path

import torch
from scipy.stats import binom

from robust_student.data import Data, Examples, load_data, split, stratified_sample
from robust_student.data_checks import check_data
from robust_student.findings import Finding
from robust_student.machine_checks import check_arithmetic, check_devices, check_output, check_packages
from robust_student.runs import Model, load, require_fit, resolve_device
from robust_student.tensors import UserError
from robust_student.teacher_checks import check_gradients, check_outputs, describe_teacher, sample_inputs

_EXAMPLES, _CHANCE = 1000, 0.001  # validation examples of the teacher, and the error probability of the test on them


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
    try:
        chosen = resolve_device(device)
    except UserError:
        pass  # found by check_devices
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
