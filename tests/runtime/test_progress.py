"""Long jobs say how far they are where nobody watches a bar: one line a minute on standard error, none before."""

import re
import time
from pathlib import Path
from queue import Queue

import pytest
from reference import prototype_classifier, toy_data
from rich.console import Console

from robust_student.evaluation.evaluate import evaluate
from robust_student.evaluation.settings import EvaluationSettings
from robust_student.runtime import progress
from robust_student.runtime.progress import Advance
from robust_student.training.settings import TrainingSettings
from robust_student.training.train import train


def test_a_line_says_how_far_how_long_still_and_at_what(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "_SILENCE", 0.0)
    with Advance(4_000, 1_000) as advance:
        for done in (1_000, 2_000, 3_000):
            time.sleep(0.01)
            advance.update(done, "a[b]: apgd-ce 0.1 " + "x" * 200)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3 and lines[0].startswith("1,000 of 4,000 | a[b]: apgd-ce 0.1 xxx")
    assert re.match(r"3,000 of 4,000, about 0:00:0\d left \| a\[b\]: apgd-ce 0.1 x{200}$", lines[2])


def test_the_time_left_is_that_of_the_present_speed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with Advance(100) as advance:
        advance.bar.get_time = time.monotonic
        for done in (10, 20, 30):
            now[0] += 40
            advance.update(done, "work")
    assert capsys.readouterr().err.splitlines() == ["20 of 100, about 0:05:20 left | work"]


def test_a_part_that_takes_long_is_told_of_while_it_is_worked_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """One batch of an attack may take many minutes. A job also speaks before its first part is done."""
    lines = Queue[str]()
    monkeypatch.setattr(Console, "print", lambda self, line, **_: lines.put(line))
    monkeypatch.setattr(progress, "_LOOK", 0.001)
    monkeypatch.setattr(progress, "_SILENCE", 0.0)
    with Advance(50) as advance:
        assert lines.get(timeout=60) == "0 of 50"
        advance.update(20, "kd: attack")
        later = [lines.get(timeout=60) for _ in range(9)]
    assert sum(line.startswith("20 of 50") and line.endswith(" | kd: attack") for line in later) > 1


def test_a_quiet_or_a_short_job_says_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with Advance(2) as advance:
        advance.update(1, "short")
    monkeypatch.setattr(progress, "_SILENCE", 0.0)
    with Advance(2, quiet=True) as advance:
        advance.update(1, "quiet")
    assert capsys.readouterr().err == ""


def test_training_and_evaluation_tell(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(progress, "_SILENCE", 0.0)
    data = toy_data(train=60)
    train("linear", data, TrainingSettings(epochs=2, batch_size=8, device="cpu"))
    told = capsys.readouterr().err
    assert "| epoch 1/2: cross_entropy" in told and "examples/s" in told
    settings = EvaluationSettings(
        snr_db=(0.0,), pgd_linf=(0.1,), pgd_l2=(), pgd_steps=2, autoattack="none", batch_size=16, device="cpu"
    )
    evaluate({"mine": prototype_classifier(data)}, data, settings, output=tmp_path / "out")
    lines = capsys.readouterr().err.splitlines()
    total = re.search(r" of ([\d,]+)", lines[0])
    assert total is not None and lines[-1].startswith(f"{total[1]} of {total[1]}")
    assert any("| mine: none" in line for line in lines) and any("| mine: gaussian_snr_db 0" in line for line in lines)
