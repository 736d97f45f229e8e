"""The machine: packages, devices, arithmetic, room for the output."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from finding import levels_of
from torch import Tensor

from robust_student.core.extras import fix_for_torchvision
from robust_student.doctor import machine
from robust_student.doctor.findings import Finding
from robust_student.doctor.machine import (
    Machine,
    check_arithmetic,
    check_devices,
    check_output,
    check_packages,
    slope_of_slope,
    training_step,
)

# Packages -------------------------------------------------------------------------------------------------------------


REQUIRES = ["torch>=2.6", "numpy>=1.26", 'timm>=1.0; extra == "vision"', 'ruff; extra == "dev"']
INSTALLED = {"robust-student": "0.1.0", "torch": "2.13.0+cpu", "numpy": "2.4.6", "timm": "1.0.31"}


def packages(changes: dict[str, str | None], importable: Callable[[str], object] = lambda name: None) -> list[Finding]:
    return check_packages(REQUIRES, (INSTALLED | changes).get, importable)


def test_packages_that_are_in_order_are_fine() -> None:
    findings = packages({})
    assert {finding.level for finding in findings} == {"fine"}
    assert levels_of(findings, "extra vision (timm 1.0.31)") == ["fine"]
    assert levels_of(findings, "dev") == []  # nobody but developers needs it


@pytest.mark.parametrize(("version", "text"), [(None, "numpy is missing"), ("1.20", "numpy is 1.20, not >=1.26")])
def test_a_requirement_that_is_not_met_is_a_problem(version: str | None, text: str) -> None:
    findings = packages({"numpy": version})
    assert levels_of(findings, text) == ["problem"]
    assert "pip install 'numpy>=1.26'" in [finding.fix for finding in findings]


def test_a_missing_extra_is_a_note_with_its_command() -> None:
    findings = packages({"timm": None})
    assert levels_of(findings, "extra vision is not complete (timm is missing)") == ["note"]
    assert "pip install 'robust-student[vision]'" in [finding.fix for finding in findings]


def test_an_extra_that_cannot_be_imported_is_noted() -> None:
    def broken(name: str) -> None:
        raise RuntimeError("operator torchvision::nms\ndoes not exist")

    findings = packages({}, broken)
    assert levels_of(findings, "timm cannot be imported (RuntimeError: operator") == ["note"]
    assert fix_for_torchvision() in [finding.fix for finding in findings]


def test_a_library_that_is_broken_otherwise_is_installed_again() -> None:
    def broken(name: str) -> None:
        raise SyntaxError("half a file")

    fixes = [finding.fix for finding in packages({}, broken)]
    assert "pip install --force-reinstall 'robust-student[vision]'" in fixes


def test_the_requirements_of_this_installation_are_read() -> None:
    assert not [finding for finding in check_packages(importable=lambda name: None) if finding.level == "problem"]


# Devices --------------------------------------------------------------------------------------------------------------


MACHINE = Machine("x86_64", 8, 8, 32 * 10**9, 16 * 10**9, ("cuda:0 A100, 80 GB",), "12.8", nvidia=True)


@pytest.mark.parametrize(
    ("changes", "text", "level"),
    [
        ({"threads": 16}, "uses 16 threads on 8 cores", "note"),
        ({"free": 10**8}, "only 100 MB of memory are free", "problem"),
        ({"accelerators": (), "cuda": None}, "built without CUDA", "problem"),
        ({"accelerators": ()}, "built for CUDA 12.8, but finds no GPU", "problem"),
        ({"accelerators": (), "nvidia": False}, "no GPU", "note"),
    ],
)
def test_a_fault_of_the_machine_is_found(changes: dict[str, Any], text: str, level: str) -> None:
    assert levels_of(check_devices("cpu", replace(MACHINE, **changes)), text) == [level]
    assert levels_of(check_devices("cpu", MACHINE), text) == []


def test_a_device_that_is_not_there_is_a_problem() -> None:
    findings = check_devices("cuda:77", MACHINE)
    assert levels_of(findings, "device 'cuda:77'") == ["problem"]
    assert findings[-1].fix == "choose auto, cpu, cuda:0"
    assert levels_of(check_devices("cpu", MACHINE), "device cpu is cpu") == ["fine"]


def test_this_machine_is_described() -> None:
    (cpu, *_) = check_devices("cpu")
    assert "cores: " in cpu.text and "memory" in cpu.text


# Arithmetic -----------------------------------------------------------------------------------------------------------


def rounded(first: Tensor, second: Tensor) -> Tensor:
    """A product of factors with the ten bits of TensorFloat-32."""
    return first.bfloat16().float() @ second.bfloat16().float()


def test_exact_arithmetic_is_fine(any_device: torch.device) -> None:
    assert [finding.level for finding in check_arithmetic(any_device)] == ["fine"]


def test_rounded_products_are_a_problem(any_device: torch.device) -> None:
    assert levels_of(check_arithmetic(any_device, product=rounded), "matrix products") == ["problem"]


def test_steps_that_differ_are_a_note(any_device: torch.device) -> None:
    steps = iter([torch.zeros(3), torch.ones(3)])
    assert levels_of(check_arithmetic(any_device, step=lambda device: next(steps)), "two equal steps") == ["note"]


def fails(device: torch.device) -> float:
    raise RuntimeError("derivative not implemented")


@pytest.mark.parametrize(("curvature", "text"), [(fails, "fails (derivative"), (lambda device: 3.0, "gives 3, not 36")])
def test_wrong_second_derivatives_are_a_problem(curvature: Any, text: str, any_device: torch.device) -> None:
    assert levels_of(check_arithmetic(any_device, curvature=curvature), text) == ["problem"]


def test_the_probes_are_what_they_say(any_device: torch.device) -> None:
    assert slope_of_slope(any_device) == pytest.approx(36)  # d/dx_i sum_j (3 x_j^2)^2 = 36 x_i^3
    assert training_step(any_device).abs().max() > 0


# Output ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("free", "level", "text"),
    [(10**12, "fine", "1 TB"), (10**9, "note", "enough for small runs"), (10**7, "problem", "only 10 MB")],
)
def test_room_on_the_disk_is_looked_at(free: int, level: str, text: str, tmp_path: Path) -> None:
    output = tmp_path / "new" / "run"
    assert levels_of(check_output(output, lambda path: SimpleNamespace(free=free)), text) == [level]
    assert not output.parent.exists()


def test_an_output_that_cannot_be_written_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    assert levels_of(check_output(tmp_path / "file" / "run"), "cannot write there") == ["problem"]
    assert levels_of(check_output(tmp_path / "run"), "can be written") == ["fine"]


OCCUPIED = {
    "model.json": ("holds a finished run, which was not examined", "doctor --teacher "),
    "evaluation.json": ("holds measurements, which were not examined", "new name"),
    "certification.json": ("holds measurements, which were not examined", "new name"),
    "notes.txt": ("is not empty: train and distill refuse to write there", "new name"),
}


@pytest.mark.parametrize("name", list(OCCUPIED))
def test_what_is_in_the_output_already_is_noted(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("{}")
    (finding,) = check_output(tmp_path)
    text, fix = OCCUPIED[name]
    assert finding.level == "note" and text in finding.text and fix in finding.fix


def test_unfinished_work_may_be_continued(tmp_path: Path) -> None:
    (tmp_path / "training.json").write_text("{}")
    assert [finding.level for finding in check_output(tmp_path)] == ["fine"]


# All together ---------------------------------------------------------------------------------------------------------


def test_memory_is_looked_at_where_it_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "physical_memory", lambda: None)
    monkeypatch.setattr(machine, "available_memory", lambda: None)
    assert "unknown memory" in check_devices("cpu")[0].text
