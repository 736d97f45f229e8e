"""A training that is killed or stopped, at any moment, ends with the weights of one that was not."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, BinaryIO

import pytest
import torch
from collapsing import collapsing
from documented_hint import FitNetsMethod
from reference import assert_state, message_of, prototype_classifier, same_state, state_of, toy_data
from torch import Tensor, nn

from robust_student.cli.main import main
from robust_student.data.augmentation import AugmentationSettings
from robust_student.models import run_directory
from robust_student.models.model import as_model
from robust_student.models.run_directory import METRICS, TRAINING, load
from robust_student.objectives.methods import METHODS
from robust_student.objectives.settings import ObjectiveSettings
from robust_student.runtime.files import write_atomically
from robust_student.runtime.interruption import Interrupted, StopRequest
from robust_student.training import checkpoints, memory
from robust_student.training.apart import write_apart
from robust_student.training.checkpoints import CHECKPOINT_FOLDER, Checkpoints
from robust_student.training.settings import DistillSettings, SelectionSettings, TrainingSettings
from robust_student.training.train import Trained, distill, train
from robust_student.training.unfinished_run import UnfinishedRun

DATA = toy_data(train=60, noise=0.4)
EVERY_STEP = TrainingSettings(
    epochs=3,
    batch_size=8,
    learning_rate=0.02,
    device="cpu",
    checkpoint_minutes=0,
    selection=SelectionSettings(steps=2, snr_db=(0.0,)),
)


class Killed(Exception):
    """Stands for a death of the process that nothing can catch."""


def network() -> nn.Module:
    """Dropout and BatchNorm: both have state that a resumed training must find again."""
    torch.manual_seed(5)
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.Dropout(0.3), nn.Flatten(), nn.Linear(48, 3)
    )


def student(output: Path | None, settings: TrainingSettings, objective: ObjectiveSettings) -> Trained:
    both = DistillSettings(training=settings, objective=objective)
    return distill(prototype_classifier(DATA), network(), DATA, both, output=output)


def outcome(trained: Trained) -> list[dict[str, Any]]:
    clock = {"seconds", "examples_per_second"}
    return [{name: value for name, value in record.items() if name not in clock} for record in trained.history]


@pytest.fixture
def killing(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Numbers of the checkpoints, counted over all attempts, at whose writing the process dies."""
    deaths = list[int]()
    written = 0
    original = write_atomically

    def write(path: Path, content: bytes) -> None:
        nonlocal written
        written += 1
        if written in deaths:
            (path.parent / f".{path.name}.half").write_bytes(content[: len(content) // 2])
            raise Killed
        original(path, content)
        if -written in deaths:
            raise Killed

    monkeypatch.setattr(checkpoints, "write_atomically", write)
    yield deaths


SECANT = METHODS["secant"].model_copy(update={"radius": 0.1})
CASES = {
    "secant": (EVERY_STEP, SECANT),
    "accuracy floor": (EVERY_STEP, METHODS["persistent"]),
    "exact, sgd, cosine": (EVERY_STEP.model_copy(update={"optimizer": "sgd", "schedule": "cosine"}), METHODS["exact"]),
    "average, parts, augmentation": (
        EVERY_STEP.model_copy(
            update={"ema": 0.8, "accumulate": 2, "augmentation": AugmentationSettings(crop=1, flip=True, mixup=0.5)}
        ),
        METHODS["kd"],
    ),
    "hint by a regressor": (
        EVERY_STEP,
        FitNetsMethod.parse({"hint": {"student_layer": "4", "teacher_layer": "1"}}),
    ),
    "persistent start, noise, augmentation": (
        EVERY_STEP.model_copy(update={"augmentation": AugmentationSettings(crop=1, flip=True)}),
        ObjectiveSettings.parse(
            {"radius": 0.1, "secant": {"weight": 1.0, "start": "persistent"}, "noise": {"share": 0.5}}
        ),
    ),
}


@pytest.mark.parametrize("name", list(CASES))
def test_killed_during_and_after_the_writing_of_checkpoints_it_ends_the_same(
    name: str, tmp_path: Path, killing: list[int]
) -> None:
    settings, objective = CASES[name]
    whole = student(None, settings, objective)
    killing += [1, -3, 7, -8, 12, 13, -17]  # negative: just after the writing
    deaths = 0
    while True:
        try:
            trained = student(tmp_path / "run", settings, objective)
            break
        except Killed:
            deaths += 1
    assert deaths == 7
    assert same_state(trained.model, state_of(whole.model)) and outcome(trained) == outcome(whole)
    assert_state(load(tmp_path / "run", network=network()), state_of(whole.model))
    assert {path.name for path in (tmp_path / "run").iterdir()} == {METRICS, "model.json", "model.safetensors"}


@pytest.mark.parametrize("free", [10**9, 0])
def test_killed_around_a_catastrophic_overfitting_it_ends_the_same(
    free: int, tmp_path: Path, killing: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With kept perturbations in memory, which go back, and mapped, which begin at zero."""
    monkeypatch.setattr(memory, "free_memory", lambda device: free)
    settings = EVERY_STEP.model_copy(update={"epochs": 4, "ema": 0.8})
    objective = ObjectiveSettings.parse({"secant": {"weight": 1.0, "start": "persistent"}, "noise": {"share": 0.5}})
    with collapsing():
        whole = student(None, settings, objective)
        killing += [-5, -8, 13, -15, -20]  # six steps an epoch; the second is undone
        for _ in range(5):
            with pytest.raises(Killed):
                student(tmp_path / "run", settings, objective)
        trained = student(tmp_path / "run", settings, objective)
    assert ["undone" in record for record in whole.history] == [False, True, False, False]
    assert same_state(trained.model, state_of(whole.model)) and outcome(trained) == outcome(whole)
    assert trained.warnings == whole.warnings


def test_with_the_newest_checkpoint_damaged_it_ends_the_same(
    tmp_path: Path, killing: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    whole = student(None, *CASES["secant"])
    killing.append(-9)
    with pytest.raises(Killed):
        student(tmp_path / "run", *CASES["secant"])
    newest = sorted((tmp_path / "run" / CHECKPOINT_FOLDER).iterdir())[-1]
    newest.write_bytes(newest.read_bytes()[:-1])
    trained = student(tmp_path / "run", *CASES["secant"])
    assert same_state(trained.model, state_of(whole.model)) and outcome(trained) == outcome(whole)
    assert "damaged" in caplog.text and "continuing from the one before it" in caplog.text


# Kept perturbations on disk -------------------------------------------------------------------------------------------

KEPT = "persistent start, noise, augmentation"


@pytest.fixture
def mapped(monkeypatch: pytest.MonkeyPatch) -> None:
    """No device has memory for kept perturbations."""
    monkeypatch.setattr(memory, "free_memory", lambda device: 0)


@pytest.mark.usefixtures("mapped")
def test_killed_while_kept_perturbations_are_copied_it_ends_the_same(
    tmp_path: Path, killing: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(memory, "free_memory", lambda device: 10**9)
        whole = student(None, *CASES[KEPT])
    copies, existing = 0, list[list[str]]()

    def copy(folder: Path, step: int, values: Tensor, file: BinaryIO | None) -> Path:
        nonlocal copies
        copies += 1
        assert file is not None
        if copies in (1, 6, 14):
            (folder / f".step-{step:09d}.half").write_bytes(values.numpy().tobytes()[:100])
            raise Killed
        return write_apart(folder, step, values, file)

    monkeypatch.setattr(checkpoints, "write_apart", copy)
    killing += [3, -9]  # between copy and checkpoint, and after both
    while True:
        try:
            trained = student(tmp_path / "run", *CASES[KEPT])
            break
        except Killed:
            existing.append(sorted(path.suffix for path in (tmp_path / "run" / CHECKPOINT_FOLDER).glob("step-*")))
    pair = [".bytes"] * 2 + [".pt"] * 2
    assert existing == [[], [".bytes", *pair], pair, [".bytes"] * 3 + [".pt"] * 3, pair]
    assert same_state(trained.model, state_of(whole.model)) and outcome(trained) == outcome(whole)
    assert {path.name for path in (tmp_path / "run").iterdir()} == {METRICS, "model.json", "model.safetensors"}


@pytest.mark.usefixtures("mapped")
@pytest.mark.parametrize("damage", ["cut", "flipped bit", "gone"])
def test_with_the_newest_kept_perturbations_damaged_it_ends_the_same(
    damage: str, tmp_path: Path, killing: list[int], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It goes on in memory."""
    killing.append(-9)
    with pytest.raises(Killed):
        student(tmp_path / "run", *CASES[KEPT])
    monkeypatch.setattr(memory, "free_memory", lambda device: 10**9)
    whole = student(None, *CASES[KEPT])
    newest = sorted((tmp_path / "run" / CHECKPOINT_FOLDER).glob("*.bytes"))[-1]
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content if damage == "flipped bit" else newest.read_bytes()[:-1])
    if damage == "gone":
        newest.unlink()
    trained = student(tmp_path / "run", *CASES[KEPT])
    assert same_state(trained.model, state_of(whole.model)) and outcome(trained) == outcome(whole)
    assert newest.name in caplog.text and "continuing from the one before it" in caplog.text


def test_a_wish_to_stop_is_granted_after_the_step_and_the_same_call_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rarely = EVERY_STEP.model_copy(update={"checkpoint_minutes": 1e6})
    whole = train(network(), DATA, rarely)
    steps = 0

    class Impatient(StopRequest):
        @property
        def number(self) -> int:  # type: ignore[override]
            nonlocal steps
            steps += 1
            return signal.SIGTERM if steps == 4 else 0

    monkeypatch.setattr("robust_student.runtime.interruption.StopRequest", Impatient)
    with pytest.raises(Interrupted, match="interrupted after step 4 of 18.*same command") as stopped:
        train(network(), DATA, rarely, output=tmp_path / "run")
    assert stopped.value.number == signal.SIGTERM
    assert [path.name[:14] for path in (tmp_path / "run" / CHECKPOINT_FOLDER).iterdir()] == ["step-000000004"]
    trained = train(network(), DATA, rarely, output=tmp_path / "run")
    assert same_state(trained.model, state_of(whole.model)) and outcome(trained) == outcome(whole)


def test_checkpoints_are_as_far_apart_as_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved, clock = list[int](), 0.0

    def tick() -> float:
        nonlocal clock
        clock += 20.0
        return clock

    monkeypatch.setattr("robust_student.training.unfinished_run.time", SimpleNamespace(monotonic=tick))
    monkeypatch.setattr(Checkpoints, "save", lambda self, step, state, files: saved.append(step))
    settings = EVERY_STEP.model_copy(update={"checkpoint_minutes": 1.0})
    train("mlp:4", DATA, settings, output=tmp_path / "run")
    assert saved == [3, 6, 9, 12, 15, 18] or saved == [3, 7, 11, 15]

    def slowly(self: Checkpoints, step: int, state: dict[str, Any], files: Any) -> None:
        saved.append(step)
        self.seconds = 12.0

    saved.clear()
    monkeypatch.setattr(Checkpoints, "save", slowly)
    train("mlp:4", DATA, settings, output=tmp_path / "slow")
    assert saved[:3] == [3, 9, 15] or saved[:2] == [3, 10], "a tenth of the time is the most that writing may take"


def test_an_unfinished_training_of_something_else_is_refused_by_name(tmp_path: Path, killing: list[int]) -> None:
    killing.append(-5)
    with pytest.raises(Killed):
        student(tmp_path / "run", *CASES["secant"])
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}

    def other(**changes: Any) -> str:
        settings = EVERY_STEP.model_copy(update=changes)
        return message_of(lambda: student(tmp_path / "run", settings, SECANT))

    assert "settings.training.seed: 0 there, 1 here" in other(seed=1)
    assert "settings.training.epochs: 3 there, 4 here" in other(epochs=4)
    assert "unfinished training of something else" in message_of(
        lambda: student(tmp_path / "run", EVERY_STEP, METHODS["kd"])
    )
    assert "settings" in message_of(lambda: train(network(), DATA, EVERY_STEP, output=tmp_path / "run"))
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before
    student(tmp_path / "run", EVERY_STEP.model_copy(update={"checkpoint_minutes": 9.0}), SECANT)


def test_a_state_that_does_not_fit_is_refused(tmp_path: Path, killing: list[int]) -> None:
    killing.append(-5)
    with pytest.raises(Killed):
        student(tmp_path / "run", *CASES["secant"])
    store = Checkpoints(tmp_path / "run")
    newest = store.latest()
    assert newest is not None
    step, state = newest
    for wrong in (
        {**state, "objective": {**state["objective"], "student.network.0.weight": torch.zeros(1)}},
        {**state, "optimizer": {"state": {}, "param_groups": []}},
        {name: value for name, value in state.items() if name != "history"},
        {**state, "sums": 3},
    ):
        store.clear()
        store.save(step, wrong)
        assert "not one of this training" in message_of(lambda: student(tmp_path / "run", *CASES["secant"]))


def test_a_finished_run_is_never_continued(tmp_path: Path) -> None:
    train("mlp:4", DATA, EVERY_STEP, output=tmp_path / "run")
    assert "exists already" in message_of(lambda: train("mlp:4", DATA, EVERY_STEP, output=tmp_path / "run"))


def test_after_a_divergence_the_last_good_weights_are_a_run(tmp_path: Path) -> None:
    wild = EVERY_STEP.model_copy(update={"learning_rate": 1e30, "optimizer": "sgd", "gradient_clip": None})
    message = message_of(lambda: train("mlp:4", DATA, wild, output=tmp_path / "run"))
    assert f"the last good weights are in {tmp_path / 'run' / 'last-good'}" in message
    good = load(tmp_path / "run" / "last-good")
    assert all(bool(value.isfinite().all()) for value in state_of(good).values())
    assert not (tmp_path / "run" / "model.json").exists()


def test_a_disk_that_is_full_at_the_end_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train("mlp:4", DATA, EVERY_STEP)
    original = write_atomically

    def full(path: Path, content: bytes) -> None:
        if path.name == "model.safetensors":
            raise OSError(28, "No space left on device")
        original(path, content)

    monkeypatch.setattr(run_directory, "write_atomically", full)
    message = message_of(lambda: train("mlp:4", DATA, EVERY_STEP, output=tmp_path / "run"))
    assert "cannot write the model (No space left on device)" in message
    assert (tmp_path / "run" / TRAINING).exists()
    monkeypatch.setattr(run_directory, "write_atomically", original)
    trained = train("mlp:4", DATA, EVERY_STEP, output=tmp_path / "run")
    assert same_state(trained.model, state_of(whole.model))


def test_an_unfinished_directory_says_what_it_is_of(tmp_path: Path) -> None:
    UnfinishedRun(tmp_path / "run", {"settings": {"seed": 1}}, 1.0)
    assert json.loads((tmp_path / "run" / TRAINING).read_text()) == {"settings": {"seed": 1}}
    assert "unfinished" in message_of(lambda: load(tmp_path / "run"))


NET = """
from torch import nn
def small(input_shape, num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 4), nn.{activation}(), nn.Linear(4, num_classes))
"""


@pytest.mark.parametrize("whose", ["code.network", "code.teacher"])
def test_changed_code_of_a_network_is_another_training(
    whose: str, killing: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights have the same names and shapes, and the teacher the same values."""
    monkeypatch.chdir(tmp_path)
    for name in ("student.py", "teacher.py"):
        Path(name).write_text(NET.format(activation="ReLU"))
    torch.manual_seed(0)
    weights = as_model("teacher.py:small", DATA).state_dict()

    def attempt() -> Trained:
        teacher = as_model("teacher.py:small", DATA)
        teacher.load_state_dict(weights)
        both = DistillSettings(training=EVERY_STEP, objective=METHODS["kd"])
        return distill(teacher, "student.py:small", DATA, both, output=Path("run"))

    killing.append(4)
    with pytest.raises(Killed):
        attempt()
    edited = Path("student.py" if whose == "code.network" else "teacher.py")
    edited.write_text(NET.format(activation="Tanh"))
    before = {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}
    assert f"unfinished training of something else ({whose}: " in message_of(attempt)
    assert {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()} == before
    edited.write_text(NET.format(activation="ReLU"))
    assert len(attempt().history) == EVERY_STEP.epochs


CALLS_A_HELPER = """
import helper_of_{whose}
from torch import nn
class Net(nn.Module):
    def __init__(self, input_shape, num_classes):
        super().__init__()
        self.inner = nn.Sequential(nn.Flatten(), nn.Linear(16, num_classes))
    def forward(self, inputs):
        return helper_of_{whose}.bent(self.inner(inputs))
"""


@pytest.mark.parametrize("whose", ["network", "teacher"])
def test_changed_code_that_a_network_calls_is_another_training(
    whose: str, killing: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file of the network imports a helper, which is what changes."""
    monkeypatch.chdir(tmp_path)
    for name in ("network", "teacher"):
        Path(f"{name}.py").write_text(CALLS_A_HELPER.format(whose=name))
        helper = ModuleType(f"helper_of_{name}")
        helper.bent = lambda logits: logits  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, helper.__name__, helper)
    torch.manual_seed(0)
    weights = as_model("teacher.py:Net", DATA).state_dict()

    def attempt() -> Trained:
        teacher = as_model("teacher.py:Net", DATA)
        teacher.load_state_dict(weights)
        both = DistillSettings(training=EVERY_STEP, objective=METHODS["kd"])
        return distill(teacher, "network.py:Net", DATA, both, output=Path("run"))

    killing.append(4)
    with pytest.raises(Killed):
        attempt()
    with monkeypatch.context() as patch:
        patch.setattr(sys.modules[f"helper_of_{whose}"], "bent", torch.tanh)
        assert f"(probe.{whose}: the same weights give other logits" in message_of(attempt)
    assert len(attempt().history) == EVERY_STEP.epochs


# The command line, with real signals ----------------------------------------------------------------------------------

WORDS = ["train", "--data", "digits", "--model", "mlp:8", "--epochs", "12", "--checkpoint-minutes", "0"]


def command(output: Path) -> "subprocess.Popen[str]":
    words = [sys.executable, "-m", "robust_student", *WORDS, "--device", "cpu", "--output", str(output)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_steps(process: "subprocess.Popen[str]", output: Path, more_than: int) -> int:
    """Wait until a checkpoint of a later step is there; its step."""
    while process.poll() is None:
        steps = [int(path.name[5:14]) for path in (output / CHECKPOINT_FOLDER).glob("step-*")]
        if steps and max(steps) > more_than:
            return max(steps)
        time.sleep(0.01)
    raise AssertionError(f"ended too early: {process.communicate()[1]}")


def test_the_command_survives_sigkill_and_signals_bit_for_bit(tmp_path: Path) -> None:
    whole = command(tmp_path / "whole")
    output, step = tmp_path / "run", 0
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT):
        process = command(output)
        step = wait_for_steps(process, output, step + 20)
        process.send_signal(number)
        complaints = process.communicate()[1]
        if number == signal.SIGKILL:
            assert process.returncode == -signal.SIGKILL
        else:
            assert process.returncode == 128 + number
            assert complaints.count("\n") == 1 and "the same command continues from there" in complaints
        assert not (output / "model.json").exists()
    process = command(output)
    printed, complaints = process.communicate()
    assert process.returncode == 0, complaints
    assert "kept; validation" in printed
    whole.communicate()
    assert whole.returncode == 0
    assert (output / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()


def test_a_read_only_output_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if os.geteuid() == 0:
        place = Path("/proc/robust-student")  # where not even root can write
    else:
        place = tmp_path / "locked" / "run"
        place.parent.mkdir()
        place.parent.chmod(0o500)
    with pytest.raises(SystemExit) as stop:
        main([*WORDS, "--output", str(place)])
    assert stop.value.code == 2
    assert textwrap.dedent(capsys.readouterr().err).count("\n") == 1
