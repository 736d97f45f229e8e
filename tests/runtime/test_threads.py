"""Small work runs on one thread, unless the user has chosen a number; afterwards all is as it was."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from reference import toy_data
from torch import Tensor, nn

from robust_student import __main__ as program
from robust_student.cli import main as command_line
from robust_student.evaluation.evaluate import evaluate
from robust_student.evaluation.settings import EvaluationSettings
from robust_student.runtime import threads
from robust_student.runtime.threads import SMALL, threads_for
from robust_student.training.settings import DistillSettings, TrainingSettings
from robust_student.training.train import distill, train

ONE_EPOCH = TrainingSettings(epochs=1, device="cpu")


@pytest.fixture
def two_cores(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """PyTorch as it starts on a machine of two cores whose user has chosen nothing."""
    for name in threads.CHOICES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(threads, "usable_cores", lambda: 2)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


class Watched(nn.Module):
    """A linear classifier that notes on how many threads it is asked for training and for attacks."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.seen: set[int] = set()

    def forward(self, inputs: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            self.seen.add(torch.get_num_threads())
        return self.layer(inputs)


def inside(work: int | None) -> int:
    with threads_for(work):
        return torch.get_num_threads()


@pytest.mark.parametrize(("work", "expected"), [(1, 1), (SMALL - 1, 1), (SMALL, 2), (0, 2), (None, 2)])
def test_small_work_gets_one_thread(work: int | None, expected: int, two_cores: None) -> None:
    assert inside(work) == expected
    assert torch.get_num_threads() == 2


def test_the_number_is_put_back_after_a_failure(two_cores: None) -> None:
    with pytest.raises(ValueError), threads_for(1):
        raise ValueError
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("name", threads.CHOICES)
def test_the_environment_wins(name: str, two_cores: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "2")
    assert inside(1) == 2


def test_a_number_of_the_caller_s_own_wins(two_cores: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "usable_cores", lambda: 8)
    assert inside(1) == 2
    monkeypatch.setattr(threads, "usable_cores", lambda: 4)  # two cores that count as four: PyTorch takes two
    assert inside(1) == 1


@pytest.mark.parametrize(("limit", "expected"), [(SMALL, 1), (1, 2)])
def test_training_and_evaluation_choose_by_the_cost_of_a_batch(
    limit: int, expected: int, two_cores: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "SMALL", limit)
    data = toy_data(shape=(4,))
    few = EvaluationSettings(examples=6, attack_examples=3, pgd_steps=1, autoattack="none", device="cpu")
    for job in ("train", "distill", "evaluate"):
        network = Watched()
        if job == "train":
            train(network, data, ONE_EPOCH)
        elif job == "distill":
            distill(nn.Linear(4, 3), network, data, DistillSettings(training=ONE_EPOCH, cache_scores=False))
        else:
            evaluate({"network": network}, data, few, output=tmp_path / "out")
        assert expected in network.seen, job
        assert torch.get_num_threads() == 2


@pytest.mark.parametrize("chosen", [None, "active"])
def test_the_program_s_threads_sleep_while_they_wait(chosen: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(command_line, "main", lambda: seen.append(os.environ["OMP_WAIT_POLICY"]))
    monkeypatch.setenv("OMP_WAIT_POLICY", chosen or "")
    if chosen is None:
        del os.environ["OMP_WAIT_POLICY"]
    program.main()
    assert seen == [chosen or "passive"]
