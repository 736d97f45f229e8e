"""Devices and memory: what there is, and what is too large to try."""

import pytest
import torch
from reference import message_of
from torch import nn

from robust_student.models.registry import build
from robust_student.runtime import hardware
from robust_student.runtime.hardware import physical_memory, readable, require_buildable, require_memory, resolve_device


def test_the_device_is_found_by_name() -> None:
    assert resolve_device("cpu") == torch.device("cpu")
    accelerated = torch.cuda.is_available() or torch.backends.mps.is_available()
    assert (resolve_device("auto").type == "cpu") is not accelerated


@pytest.mark.parametrize("name", ["abacus", "", "cuda:999"])
def test_a_device_that_is_not_there_is_refused_by_name(name: str) -> None:
    assert f"'{name}'" in message_of(lambda: resolve_device(name))


def test_the_largest_network_is_still_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "_LARGEST_NETWORK", 65 * 10)
    assert sum(p.numel() for p in build("linear", (1, 8, 8), 10).parameters()) == 650
    monkeypatch.setattr(hardware, "_LARGEST_NETWORK", 65 * 10 - 1)
    assert "would have 6.5e+02 parameters" in message_of(lambda: build("linear", (1, 8, 8), 10))


def test_an_error_that_is_none_of_size_is_not_taken_for_one() -> None:
    def broken() -> nn.Module:
        raise TypeError("linear() takes no widths")

    with pytest.raises(TypeError, match="no widths"):
        require_buildable("linear:3", broken)


def test_memory_is_compared_with_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    there = physical_memory()
    assert there is None or there > 10**8
    monkeypatch.setattr(hardware, "physical_memory", lambda: 10**9)
    require_memory(10**9, "data", "buy more")
    complaint = message_of(lambda: require_memory(10**9 + 1, "data", "buy more"))
    assert complaint == "data: needs 1 GB of memory, this machine has 1 GB; buy more"
    monkeypatch.setattr(hardware, "physical_memory", lambda: None)
    require_memory(10**30, "data", "buy more")


@pytest.mark.parametrize(
    ("size", "shown"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1 kB"), (25_300_000_000, "25.3 GB"), (10**24, "1e+06 EB")],
)
def test_sizes_are_readable(size: int, shown: str) -> None:
    assert readable(size) == shown
