"""Where kept perturbations lie: on the device or mapped, with the same result, and never without room on the disk."""

import errno
import gc
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from reference import message_of, prototype_classifier, same_state, state_of, toy_data

from robust_student.core.errors import UserError
from robust_student.data.examples import Examples
from robust_student.objectives.kept_perturbations import KeptPerturbations
from robust_student.objectives.settings import ObjectiveSettings
from robust_student.runtime import hardware
from robust_student.training import memory
from robust_student.training.memory import memory_of
from robust_student.training.settings import DistillSettings, SelectionSettings, TrainingSettings
from robust_student.training.train import Trained, distill

DATA = toy_data(train=60, noise=0.4)
SETTINGS = DistillSettings(
    training=TrainingSettings(
        epochs=2, batch_size=8, device="cpu", checkpoint_minutes=0, selection=SelectionSettings(metric="accuracy")
    ),
    objective=ObjectiveSettings.parse({"radius": 0.1, "secant": {"weight": 1.0, "start": "persistent"}}),
)
CPU = torch.device("cpu")
EXAMPLES, SHAPE = 10, (5, 6)
SIZE = 2 * (10 * 30 + 10 * 4)
"""In memory those of the last good epoch are kept, too."""


def free(monkeypatch: pytest.MonkeyPatch, memory_bytes: int | None, disk_bytes: int = 10**9) -> None:
    monkeypatch.setattr(memory, "free_memory", lambda device: memory_bytes)
    monkeypatch.setattr(memory, "shutil", SimpleNamespace(disk_usage=lambda folder: SimpleNamespace(free=disk_bytes)))


def kept_for(source: Examples, output: Path | None) -> KeptPerturbations:
    _, kept = memory_of(SETTINGS, source, CPU, output)
    assert kept is not None
    return kept


def examples(dtype: torch.dtype = torch.float32, mapped: bool = False) -> Examples:
    return Examples(torch.zeros(EXAMPLES, *SHAPE, dtype=dtype), torch.zeros(EXAMPLES, dtype=torch.long), mapped=mapped)


@pytest.mark.parametrize(
    ("source", "needed"),
    [
        (examples(), 2 * SIZE),
        (examples(torch.uint8, mapped=True), 2 * SIZE + 10 * 30),  # the data's pages want memory, too
        (examples(mapped=True), 2 * SIZE + 4 * 10 * 30),
    ],
)
def test_they_lie_on_the_device_where_half_of_the_free_memory_holds_them(
    source: Examples, needed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    for memory_bytes in (None, needed):
        free(monkeypatch, memory_bytes)
        assert kept_for(source, tmp_path / "run").file is None
    assert caplog.messages == ["kept perturbations: 680 bytes on cpu"] * 2
    free(monkeypatch, needed - 1)
    kept = kept_for(source, tmp_path / "run")
    assert kept.file is not None and os.fstat(kept.file.fileno()).st_size == 300
    assert caplog.messages[2].startswith("kept perturbations: 680 bytes, more than half of the free memory: mapped")
    assert caplog.messages[2].endswith(f"in {tmp_path}") and not list(tmp_path.iterdir())


def test_processes_of_one_machine_share_its_memory_and_its_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("robust_student.runtime.distributed.size_here", lambda: 4)
    free(monkeypatch, 8 * SIZE)
    assert kept_for(examples(), None).file is None
    free(monkeypatch, 8 * SIZE - 1, disk_bytes=(4 + 3) * 300)
    assert kept_for(examples(), tmp_path / "run").file is not None
    free(monkeypatch, 8 * SIZE - 1, disk_bytes=(4 + 3) * 300 - 1)
    assert "need 2.1 kB of disk" in message_of(lambda: kept_for(examples(), tmp_path / "run"))


@pytest.mark.parametrize(
    ("memory_bytes", "there", "needed"), [(0, 0, 4 * 300), (0, 2 * 300, 2 * 300), (10**9, 0, 3 * 600)]
)
def test_a_disk_without_room_for_them_and_their_copies_is_one_line_before_training(
    memory_bytes: int, there: int, needed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copies of earlier checkpoints lie there already."""
    output = tmp_path / "run"
    if there:
        (output / "checkpoints").mkdir(parents=True)
        (output / "checkpoints" / "step-000000001-0123456789abcdef.bytes").write_bytes(bytes(there))
    free(monkeypatch, memory_bytes, disk_bytes=needed - 1)
    message = message_of(lambda: kept_for(examples(), output))
    assert message.startswith(f"output {output}: the kept perturbations need {hardware.readable(needed)} of disk")
    assert "--secant.start random" in message
    free(monkeypatch, memory_bytes, disk_bytes=needed)
    kept_for(examples(), output)


def test_without_an_output_they_need_room_in_the_cache_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    free(monkeypatch, 0, disk_bytes=299)
    message = message_of(lambda: distill(prototype_classifier(DATA), "linear", DATA, SETTINGS))
    assert message.startswith("cache ") and "set ROBUST_STUDENT_CACHE" in message


def test_a_file_system_that_refuses_the_blocks_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, start: int, size: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    free(monkeypatch, 0)
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(UserError, match=r"need 300 bytes of disk \(No space left on device\)"):
        kept_for(examples(), tmp_path / "run")


def mappings(folder: Path) -> list[str]:
    """What this process has mapped from files without a name on a folder's disk; Linux lists it."""
    lines = Path("/proc/self/maps").read_text().splitlines() if Path("/proc/self/maps").exists() else []
    return [line for line in lines if str(folder) in line and line.endswith("(deleted)")]


@pytest.mark.parametrize("written", [False, True])
def test_mapped_it_trains_the_same_bits_and_nothing_is_left(
    written: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROBUST_STUDENT_CACHE", str(tmp_path / "cache"))
    seen = list[tuple[int, Any]]()
    original = KeptPerturbations.write

    def watched(self: KeptPerturbations, *arguments: Any) -> None:
        seen.append((len(mappings(tmp_path)), self.file))
        original(self, *arguments)

    def trained() -> Trained:
        torch.manual_seed(0)
        return distill(
            prototype_classifier(DATA), "mlp:8", DATA, SETTINGS, output=tmp_path / "run" if written else None
        )

    monkeypatch.setattr(memory, "free_memory", lambda device: 10**9)
    in_memory = distill(prototype_classifier(DATA), "mlp:8", DATA, SETTINGS).model
    monkeypatch.setattr(memory, "free_memory", lambda device: 0)
    monkeypatch.setattr(KeptPerturbations, "write", watched)
    on_disk = trained().model
    assert seen and all(file is not None for _, file in seen)
    assert not Path("/proc/self/maps").exists() or all(count == 1 for count, _ in seen)
    assert same_state(on_disk, state_of(in_memory))
    seen.clear()
    gc.collect()
    assert not mappings(tmp_path)
    names = {path.name for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".safetensors"}
    assert names == ({"metrics.jsonl", "model.json"} if written else set())
