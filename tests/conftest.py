"""Fixtures every test file shares: the device, a seeded generator, small float64 students."""

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import shape_checks
import torch
from hypothesis import settings
from reference import conv_student, linear_student, smooth_student
from rounding import OtherRounding
from torch import nn

pytest.register_assert_rewrite("bad_inputs")
settings.register_profile("robust_student", deadline=None, derandomize=True, max_examples=100)
settings.load_profile("robust_student")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # of processes that a test starts
torch.set_num_threads(1)  # the tensors are tiny: threads only add overhead
if torch.version.cuda is None and find_spec("torchvision") is not None:
    # Wheels of torchvision from the package index are built for CUDA: beside a CPU build of torch their operators do
    # not load, and the import fails over two names that it wants to describe. Networks do not use them.
    OPERATORS: Any = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]  # kept alive
    for operator in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, operator):
            OPERATORS.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

IMAGE = (2, 4, 4)
"""Shape of the inputs of the student fixtures."""
CLASSES = 3


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test reads or fills the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROBUST_STUDENT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def _rounding() -> Iterator[None]:
    """With OTHER_ROUNDING=1, last bits depend on the size of a batch, as they do on some processors."""
    other = os.environ.get("OTHER_ROUNDING") == "1"
    with OtherRounding() if other else nullcontext():  # type: ignore[no-untyped-call]
        yield


def pytest_runtest_setup() -> None:
    """Called by pytest before every test."""
    shape_checks.begin()


def _devices() -> list[str]:
    available = ["cpu"]
    if torch.cuda.is_available():
        available.append("cuda")
    if torch.backends.mps.is_available():
        available.append("mps")
    return available


@pytest.fixture(scope="session", params=_devices())
def any_device(request: pytest.FixtureRequest) -> torch.device:
    """Every device of this machine."""
    return torch.device(request.param)


@pytest.fixture(scope="session")
def device(any_device: torch.device) -> torch.device:
    """Every device of this machine that has float64, which the oracles need."""
    if any_device.type == "mps":
        pytest.skip("mps has no float64")
    return any_device


@pytest.fixture
def generator(device: torch.device) -> torch.Generator:
    return torch.Generator(device).manual_seed(0)


@pytest.fixture
def linear(device: torch.device) -> nn.Module:
    """Affine float64 student for (2, 4, 4) inputs and 3 classes."""
    return linear_student(IMAGE, CLASSES, device)


@pytest.fixture
def smooth(device: torch.device) -> nn.Module:
    """Tanh MLP in float64 for (2, 4, 4) inputs and 3 classes."""
    return smooth_student(IMAGE, CLASSES, device)


@pytest.fixture
def conv(device: torch.device) -> nn.Module:
    """Convolution with BatchNorm in float64, in training mode, for (2, 4, 4) inputs and 3 classes."""
    return conv_student(IMAGE, CLASSES, device).train()


@pytest.fixture(scope="session")
def sound_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of inputs that are in order."""
    from spoiled import world

    root = tmp_path_factory.mktemp("inputs")
    before = Path.cwd()
    os.chdir(root)
    try:
        world()
    finally:
        os.chdir(before)
    return root


@pytest.fixture
def patience() -> Iterator[None]:
    """Ends a test that would wait forever."""

    def give_up(*_: object) -> None:
        pytest.fail("still waiting after five minutes")  # no OSError, which the program would explain

    signal.signal(signal.SIGALRM, give_up)
    signal.alarm(300)
    yield
    signal.alarm(0)


@pytest.fixture
def here(sound_world: Path, patience: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of inputs that are in order, as the working directory of a test that spoils them."""
    copy = tmp_path / "here"
    shutil.copytree(sound_world, copy)
    monkeypatch.chdir(copy)
    return copy
