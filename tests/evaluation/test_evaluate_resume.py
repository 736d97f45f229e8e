"""An evaluation that was interrupted goes on; another one is refused and left alone."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from reference import affine, message_of, prototype_classifier
from torch import Tensor, nn
from toy_evaluation import ATTACKED, DATA, FAST, Curved, Records, lines_of, models, run, snapshot, timeless

from robust_student.data.readers.load import Examples
from robust_student.evaluation import row_store
from robust_student.evaluation.row_store import Shard
from robust_student.evaluation.settings import EvaluationSettings
from robust_student.results.rows import EVALUATION, ROWS, SUMMARY
from robust_student.runtime.files import append_jsonl, read_json


class Interrupted(Exception):
    """Stands for a kill."""


def interrupt(output: Path, after: int, monkeypatch: pytest.MonkeyPatch, settings: EvaluationSettings = FAST) -> None:
    """Run until some batches are written."""
    written, original = [0], append_jsonl

    def append(path: Path, rows: list[dict[str, Any]]) -> None:
        if written[0] == after:
            raise Interrupted
        original(path, rows)
        written[0] += 1

    with monkeypatch.context() as patch:
        patch.setattr(row_store, "append_jsonl", append)
        with pytest.raises(Interrupted):
            run(output, settings)


@pytest.mark.parametrize("after", [0, 1, 9, 40])
def test_an_interrupted_evaluation_goes_on_to_the_same_result(
    after: int, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt(tmp_path / "out", after, monkeypatch)
    assert not (tmp_path / "out" / SUMMARY).exists()
    records = run(tmp_path / "out")
    assert lines_of(tmp_path / "out") == lines_of(finished)
    assert timeless(records) == timeless(read_json(finished / SUMMARY))


def test_an_interrupted_autoattack_goes_on_to_the_same_result(
    attacked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt(tmp_path / "out", 60, monkeypatch, ATTACKED)
    assert timeless(run(tmp_path / "out", ATTACKED)) == timeless(read_json(attacked / SUMMARY))
    assert lines_of(tmp_path / "out") == lines_of(attacked)


def test_what_was_measured_is_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt(tmp_path / "out", 20, monkeypatch)
    before = (tmp_path / "out" / ROWS).read_bytes()
    run(tmp_path / "out")
    assert (tmp_path / "out" / ROWS).read_bytes().startswith(before)


@pytest.mark.parametrize("cut", [1, 2, 30, 200])
def test_a_last_line_that_was_cut_is_repaired(
    cut: int, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt(tmp_path / "out", 9, monkeypatch)
    rows = tmp_path / "out" / ROWS
    rows.write_bytes(rows.read_bytes()[:-cut])
    records = run(tmp_path / "out")
    assert rows.read_bytes().count(b"\n") == (finished / ROWS).read_bytes().count(b"\n")
    assert lines_of(tmp_path / "out") == lines_of(finished)
    assert timeless(records) == timeless(read_json(finished / SUMMARY))


def shuffled(network: nn.Module) -> nn.Module:
    """The same numbers in another order: another model."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(parameter.flip(0))
    return network


OTHER_RUNS: dict[str, tuple[str, Callable[[Path], Records]]] = {
    "settings": ("settings.pgd_steps: 6 there, 7 here", lambda out: run(out, FAST.model_copy(update={"pgd_steps": 7}))),
    "seed": ("settings.seed: 0 there, 1 here", lambda out: run(out, FAST.model_copy(update={"seed": 1}))),
    "fewer models": ("models.teacher: ", lambda out: run(out, subjects={"kd": models()["kd"]})),
    "weights": ("models.new: ", lambda out: run(out, subjects=models() | {"new": affine(torch.ones(3, 16))})),
    "weights in another order": ("models.kd: ", lambda out: run(out, subjects=models() | {"kd": shuffled(Curved())})),
    "negated weights": (
        "models.new: ",
        lambda out: run(out, subjects=models() | {"new": affine(-next(models()["new"].parameters()))}),
    ),
    "test inputs": (
        "test: ",
        lambda out: run(out, data=replace(DATA, test=Examples(1 - DATA.test.inputs, DATA.test.labels))),
    ),
    "test labels": (
        "test: ",
        lambda out: run(out, data=replace(DATA, test=Examples(DATA.test.inputs, DATA.test.labels.flip(0)))),
    ),
}
"""What is another evaluation -> the difference that is named, and its run."""


@pytest.mark.parametrize("what", sorted(OTHER_RUNS))
def test_the_beginning_of_another_evaluation_is_refused_with_the_difference_and_left_alone(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt(tmp_path / "out", 5, monkeypatch)
    before, (named, again) = snapshot(tmp_path / "out"), OTHER_RUNS[what]
    message = message_of(lambda: again(tmp_path / "out"))
    assert str(tmp_path / "out") in message and f"({named}" in message
    assert snapshot(tmp_path / "out") == before


class Helped(nn.Module):
    """A classifier whose forward calls a function that belongs to somebody else."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = prototype_classifier(DATA)

    def forward(self, inputs: Tensor) -> Tensor:
        return nn.functional.softsign(self.inner(inputs))


def test_changed_code_that_a_network_calls_is_another_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the weights nor the file of the network's class change."""
    subjects = {"helped": Helped(), "kd": Curved()}
    assert run(tmp_path / "out", subjects=subjects, shard=Shard(0, 2)) == []
    before = snapshot(tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr(nn.functional, "softsign", torch.tanh)
        message = message_of(lambda: run(tmp_path / "out", subjects=subjects, shard=Shard(1, 2)))
    assert "(probe.helped: the same weights give other logits" in message
    assert snapshot(tmp_path / "out") == before
    assert run(tmp_path / "out", subjects=subjects, shard=Shard(1, 2)) == []


@pytest.mark.parametrize("content", ["[]", "{}", '{"fingerprint": 3}'])
def test_a_record_that_says_nothing_is_of_another_evaluation(content: str, tmp_path: Path) -> None:
    (tmp_path / EVALUATION).write_text(content)
    assert "(everything)" in message_of(lambda: run(tmp_path))


def test_a_finished_evaluation_is_refused_and_left_alone(finished: Path) -> None:
    before = snapshot(finished)
    assert "holds a finished run" in message_of(lambda: run(finished))
    assert snapshot(finished) == before
