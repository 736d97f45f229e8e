"""Whether this machine is fit for training: packages, devices, arithmetic and the place for results."""

import importlib
import importlib.util
import platform
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from packaging.requirements import Requirement
from torch import Tensor

from robust_student.core.errors import UserError
from robust_student.core.extras import fix_for_torchvision
from robust_student.doctor.findings import Finding
from robust_student.models.run_directory import require_new
from robust_student.results.rows import CERTIFICATION, EVALUATION
from robust_student.runtime.files import require_writable
from robust_student.runtime.hardware import available_memory, physical_memory, readable, resolve_device, usable_cores

_PACKAGE = "robust-student"
LEAST_MEMORY, LEAST_DISK = 1_000_000_000, 200_000_000
"""Bytes below which training or writing results is likely to fail."""
_LITTLE_DISK = 2_000_000_000
_ROUNDING = 1e-5
"""Largest relative error of a float32 matrix product; TensorFloat-32 has about 3e-4."""


# Packages -------------------------------------------------------------------------------------------------------------


def _version_of(name: str) -> str | None:
    """Version of an installed package; None where there is none."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def check_packages(
    requires: Sequence[str] | None = None,
    version: Callable[[str], str | None] = _version_of,
    importable: Callable[[str], object] = importlib.import_module,
) -> list[Finding]:
    """What is installed: versions, requirements that are not met, extras that are missing or broken.

    Args:
        requires: the package's requirements as its metadata states them; None: read them.
        version: version of an installed package by name, or None.
        importable: imports a module by name or raises.
    """
    if requires is None:
        requires = metadata.requires(_PACKAGE) or []
    python, system = platform.python_version(), platform.platform(terse=True)
    line = f"{_PACKAGE} {version(_PACKAGE)}, Python {python}, torch {version('torch')}, {system}"
    findings = [Finding("packages", "fine", line)]
    parsed = [Requirement(text) for text in requires]
    for needed in parsed:
        if needed.marker is None and not _met(needed, version):
            findings.append(Finding("packages", "problem", _shortfall(needed, version), f"pip install '{needed}'"))
    for extra in sorted({extra for needed in parsed for extra in _extras(needed)} - {"dev"}):
        of_extra = [needed for needed in parsed if extra in _extras(needed)]
        command = f"pip install '{_PACKAGE}[{extra}]'"
        missing = [needed for needed in of_extra if not _met(needed, version)]
        if missing:
            what = ", ".join(_shortfall(needed, version) for needed in missing)
            findings.append(Finding("packages", "note", f"extra {extra} is not complete ({what})", command))
            continue
        broken = [error for needed in of_extra if (error := _broken(needed.name, importable)) is not None]
        if broken:
            again = command.replace("install", "install --force-reinstall")
            fix = fix_for_torchvision() if "torchvision" in broken[0] else again
            findings.append(Finding("packages", "note", f"extra {extra}: {broken[0]}", fix))
        else:
            versions = ", ".join(f"{needed.name} {version(needed.name)}" for needed in of_extra)
            findings.append(Finding("packages", "fine", f"extra {extra} ({versions})"))
    return findings


def _extras(needed: Requirement) -> Iterator[str]:
    """The extras that ask for a requirement."""
    if needed.marker is not None:
        text = str(needed.marker)
        yield from (part.strip(" \"'()") for part in text.split("extra ==")[1:])


def _met(needed: Requirement, version: Callable[[str], str | None]) -> bool:
    installed = version(needed.name)
    return installed is not None and needed.specifier.contains(installed, prereleases=True)


def _shortfall(needed: Requirement, version: Callable[[str], str | None]) -> str:
    installed = version(needed.name)
    return f"{needed.name} is missing" if installed is None else f"{needed.name} is {installed}, not {needed.specifier}"


def _broken(name: str, importable: Callable[[str], object]) -> str | None:
    """Why an installed package cannot be imported; None where it can, or where its module has another name."""
    module = name.replace("-", "_")
    if importable is importlib.import_module and importlib.util.find_spec(module) is None:
        return None
    try:
        importable(module)
    except Exception as error:  # a torchvision built for another torch raises RuntimeError
        return f"{name} cannot be imported ({type(error).__name__}: {' '.join(str(error).split())[:120]})"
    return None


# Devices --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Machine:
    """What there is to compute with."""

    processor: str
    cores: int
    """That this process may use."""
    threads: int
    """That PyTorch uses."""
    memory: int | None
    """Bytes of main memory; None: unknown."""
    free: int | None
    """Bytes of it that are free now."""
    accelerators: tuple[str, ...]
    """Names and sizes of GPUs that PyTorch can use."""
    cuda: str | None
    """CUDA version that this PyTorch is built for."""
    nvidia: bool
    """Whether an NVIDIA driver is installed."""

    @classmethod
    def here(cls) -> "Machine":
        """This machine."""
        gpus = []
        for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
            about = torch.cuda.get_device_properties(number)
            gpus.append(f"cuda:{number} {about.name}, {readable(about.total_memory)}")
        if torch.backends.mps.is_available():
            gpus.append("mps")
        return cls(
            processor=platform.machine(),
            cores=usable_cores(),
            threads=torch.get_num_threads(),
            memory=physical_memory(),
            free=available_memory(),
            accelerators=tuple(gpus),
            cuda=torch.version.cuda,
            nvidia=shutil.which("nvidia-smi") is not None or Path("/proc/driver/nvidia").exists(),
        )


def check_devices(device_name: str, machine: Machine | None = None) -> list[Finding]:
    """What there is to compute with, and whether the device that is wanted is among it."""
    machine = machine if machine is not None else Machine.here()
    memory = "unknown memory" if machine.memory is None else f"{readable(machine.memory)} of memory"
    counts = f"cores: {machine.cores}, threads: {machine.threads}"
    findings = [Finding("devices", "fine", f"CPU {machine.processor}, {counts}, {memory}")]
    findings += [Finding("devices", "fine", name) for name in machine.accelerators]
    if machine.threads > machine.cores:
        text = f"PyTorch uses {machine.threads} threads on {machine.cores} cores, which slows it down"
        findings.append(Finding("devices", "note", text, f"set OMP_NUM_THREADS={machine.cores}"))
    if machine.free is not None and machine.free < LEAST_MEMORY:
        text = f"only {readable(machine.free)} of memory are free"
        findings.append(Finding("devices", "problem", text, "close other programs or choose a machine with more"))
    if machine.nvidia and not any(name.startswith("cuda") for name in machine.accelerators):
        if machine.cuda is None:
            text = "an NVIDIA driver is installed, but this PyTorch is built without CUDA"
            fix = "install the build for your CUDA version, see pytorch.org/get-started/locally"
        else:
            text = f"this PyTorch is built for CUDA {machine.cuda}, but finds no GPU that it can use"
            fix = "update the driver (nvidia-smi shows what it supports) and look at CUDA_VISIBLE_DEVICES"
        findings.append(Finding("devices", "problem", text, fix))
    elif not machine.accelerators:
        findings.append(Finding("devices", "note", "no GPU: everything runs on the CPU"))
    try:
        device = resolve_device(device_name)
    except UserError as error:
        fix = f"choose {', '.join(['auto', 'cpu', *(name.split()[0] for name in machine.accelerators)])}"
        return [*findings, Finding("devices", "problem", str(error).partition("; choose")[0], fix)]
    return [*findings, Finding("devices", "fine", f"device {device_name} is {device}")]


# Arithmetic -----------------------------------------------------------------------------------------------------------


def training_step(device: torch.device) -> Tensor:
    """The gradient of one step of a small convolutional network, always from the same numbers."""
    generator = torch.Generator().manual_seed(0)
    images, kernels = torch.randn(16, 3, 16, 16, generator=generator), torch.randn(8, 3, 3, 3, generator=generator)
    weights = kernels.to(device).requires_grad_()
    loss = torch.nn.functional.conv2d(images.to(device), weights).relu().square().mean()
    return torch.autograd.grad(loss, weights)[0].cpu()


def slope_of_slope(device: torch.device) -> float:
    """Derivative of ||grad f||^2 for f(x) = sum x^3 at x = (1, ..., 1): 36 in every direction."""
    points = torch.ones(4, device=device, requires_grad=True)
    (slope,) = torch.autograd.grad((points**3).sum(), points, create_graph=True)
    return float(torch.autograd.grad(slope.square().sum(), points)[0].mean())


def check_arithmetic(
    device: torch.device,
    product: Callable[[Tensor, Tensor], Tensor] = torch.matmul,
    step: Callable[[torch.device], Tensor] = training_step,
    curvature: Callable[[torch.device], float] = slope_of_slope,
) -> list[Finding]:
    """Whether float32 is as exact as it should be, steps repeat exactly, and second derivatives are right."""
    findings = []
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randn(128, 128, generator=generator) for _ in range(2))
    exact = first.double() @ second.double()
    error = float((product(first.to(device), second.to(device)).cpu().double() - exact).norm() / exact.norm())
    if not error <= _ROUNDING:
        text = f"float32 matrix products on {device} are off by {error:.0e}: TensorFloat-32 or a faulty device"
        fix = "unset TORCH_ALLOW_TF32_CUBLAS_OVERRIDE, or call torch.set_float32_matmul_precision('highest')"
        findings.append(Finding("arithmetic", "problem", text, fix))
    if not torch.equal(step(device), step(device)):
        text = f"two equal steps on {device} differ: runs repeat approximately, not to the bit"
        fix = "set CUBLAS_WORKSPACE_CONFIG=:4096:8 and call torch.use_deterministic_algorithms(True)"
        findings.append(Finding("arithmetic", "note", text, fix))
    try:
        value = curvature(device)
        wrong = "" if abs(value - 36) < 1e-3 else f"gives {value:g}, not 36"
    except RuntimeError as complaint:
        wrong = f"fails ({' '.join(str(complaint).split())[:120]})"
    if wrong:
        text = f"the gradient of a gradient on {device} {wrong}"
        findings.append(Finding("arithmetic", "problem", text, "update PyTorch, or train with --device cpu"))
    if not findings:
        exact_to = f"float32 on {device} is exact to {error:.0e}"
        text = f"{exact_to}, a repeated training step gives the same bits, second derivatives are right"
        findings.append(Finding("arithmetic", "fine", text))
    return findings


# Output ---------------------------------------------------------------------------------------------------------------


def check_output(output: Path, usage: Callable[[Path], Any] = shutil.disk_usage) -> list[Finding]:
    """Whether results can be written at `output`, and how much room there is; nothing is left there."""
    try:
        require_writable(output)
    except UserError as error:
        return [Finding("output", "problem", str(error), "choose another --output, or change its owner or permissions")]
    findings = _occupied(output)
    nearest = next(folder for folder in (output, *output.absolute().parents) if folder.is_dir())
    free = usage(nearest).free
    if free < LEAST_DISK:
        text = f"only {readable(free)} are free on the disk of {nearest}"
        return [*findings, Finding("output", "problem", text, "make room")]
    if free < _LITTLE_DISK:
        text = f"{readable(free)} are free on the disk of {nearest}: enough for small runs"
        findings.append(Finding("output", "note", text, "make room before large ones"))
    elif not findings:
        findings.append(Finding("output", "fine", f"{output} can be written; {readable(free)} are free there"))
    return findings


def _occupied(output: Path) -> list[Finding]:
    """A note where something is there already: it is not examined, and a training would refuse to write there."""
    if (output / "model.json").exists():
        text = f"{output} holds a finished run, which was not examined: train and distill refuse to write there"
        return [Finding("output", "note", text, f"choose a new name; to examine the run: doctor --teacher {output}")]
    if (output / EVALUATION).exists() or (output / CERTIFICATION).exists():
        text = f"{output} holds measurements, which were not examined: only the command that made them writes there"
        return [Finding("output", "note", text, "choose a new name for other measurements")]
    try:
        require_new(output)
    except UserError:
        text = f"{output} is not empty: train and distill refuse to write there"
        return [Finding("output", "note", text, "choose a new name")]
    return []
