"""Figures for dashboards."""

import sys
from pathlib import Path
from typing import Any

import pytest
from reference import message_of, toy_data

from robust_student.models.run_directory import load
from robust_student.training.settings import SelectionSettings, TrainingSettings
from robust_student.training.tracking import TRACKING_FOLDER
from robust_student.training.train import train

DATA = toy_data(train=60, noise=0.4)
TRACKED = TrainingSettings(
    epochs=3, batch_size=8, device="cpu", track=("tensorboard",), selection=SelectionSettings(metric="accuracy")
)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # tensorboard's own
def test_tensorboard_gets_every_epoch(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    history = train("linear", DATA, TRACKED, output=tmp_path / "run").history
    events = EventAccumulator(str(tmp_path / "run" / TRACKING_FOLDER))
    events.Reload()

    def series(name: str) -> list[Any]:
        return [[event.step, event.value] for event in events.Scalars(name)]

    assert series("terms/cross_entropy") == [
        [6 * record["epoch"], pytest.approx(record["terms"]["cross_entropy"])] for record in history
    ]
    assert [value for _, value in series("validation/clean")] == pytest.approx(
        [record["validation"]["clean"] for record in history]
    )
    load(tmp_path / "run")


def test_without_trackers_nothing_is_tracked(tmp_path: Path) -> None:
    train("linear", DATA, TRACKED.model_copy(update={"track": ()}), output=tmp_path / "run")
    assert not (tmp_path / "run" / TRACKING_FOLDER).exists()


def test_tracking_needs_an_output() -> None:
    assert "needs an output" in message_of(lambda: train("linear", DATA, TRACKED))


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        ("accelerate.tracking", "needs accelerate"),
        ("accelerate.state", "robust-student[track]"),
        ("wandb", "pip install wandb"),
    ],
)
def test_a_missing_package_is_named(missing: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    settings = TRACKED.model_copy(update={"track": ("wandb" if missing == "wandb" else "tensorboard",)})
    assert words in message_of(lambda: train("linear", DATA, settings, output=tmp_path / "run"))


def test_a_tracker_that_does_not_start_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(_: object) -> None:
        raise RuntimeError("no such server\nand a page of advice")

    monkeypatch.setattr("accelerate.tracking.TensorBoardTracker.start", start)
    message = message_of(lambda: train("linear", DATA, TRACKED, output=tmp_path / "run"))
    assert message == "track: tensorboard did not start (no such server)"
