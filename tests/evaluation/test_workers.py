"""Processes beside the first one: from Python, they measure what one process measures."""

import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from reference import message_of, prototype_classifier, toy_data
from rounding import one_process
from torch import nn
from toy_evaluation import DATA, FAST, lines_of, models, timeless

from robust_student.data.examples import Examples
from robust_student.evaluation import row_store
from robust_student.evaluation.certify import certify
from robust_student.evaluation.evaluate import evaluate
from robust_student.evaluation.row_store import Shard
from robust_student.evaluation.settings import CertificationSettings
from robust_student.evaluation.workers import beside
from robust_student.results.rows import SUMMARY
from robust_student.runtime.files import append_jsonl, read_json


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows this process writes at a time."""
    counts: list[int] = []

    def append(path: Path, rows: list[dict[str, Any]]) -> None:
        append_jsonl(path, rows)
        counts.append(len(rows))

    monkeypatch.setattr(row_store, "append_jsonl", append)
    return counts


@one_process
def test_evaluate_with_workers_measures_what_one_process_measures(
    finished: Path, tmp_path: Path, measured: list[int]
) -> None:
    output = tmp_path / "out"
    records = evaluate(models(), DATA, FAST, output=output, workers=2)
    assert lines_of(output) == lines_of(finished) and not list(output.glob("rows-*"))
    assert timeless(read_json(output / SUMMARY)) == timeless(read_json(finished / SUMMARY))
    assert len(records.records) == len(read_json(finished / SUMMARY))
    assert 0.3 < sum(measured) / len(lines_of(finished)) < 0.7


@one_process
def test_certify_with_workers_measures_what_one_process_measures(tmp_path: Path, measured: list[int]) -> None:
    settings = CertificationSettings(
        examples=6, linear_examples=4, methods=("interval",), sampled_points=2, batch_size=2, device="cpu"
    )
    subjects = {"m": prototype_classifier(DATA)}
    for name, count in (("one", 1), ("two", 2)):
        measured.clear()
        certify(subjects, DATA, settings, output=tmp_path / name, workers=count)
    assert lines_of(tmp_path / "one") == lines_of(tmp_path / "two")
    assert 0 < sum(measured) < len(lines_of(tmp_path / "one"))
    assert read_json(tmp_path / "one" / SUMMARY) == read_json(tmp_path / "two" / SUMMARY)


def test_models_that_another_process_cannot_open_are_refused_in_one_line(tmp_path: Path) -> None:
    class Local(nn.Sequential):
        pass

    class Script(nn.Sequential):
        pass

    Script.__module__ = "__main__"
    lazy = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    lazy.register_forward_hook(lambda module, inputs, outputs: outputs)
    for network, reason in (
        (Local(lazy), "Local"),
        (Script(lazy), "in the script or notebook itself"),
        (lazy, "lambda"),
    ):
        attempt = partial(evaluate, {"m": network}, DATA, output=tmp_path / "out", workers=2)
        message = message_of(attempt)
        assert message.startswith("workers: model 'm' cannot be handed") and reason in message and "\n" not in message
    assert not (tmp_path / "out").exists()


def test_mapped_test_sets_shards_with_workers_and_no_workers_are_refused(tmp_path: Path) -> None:
    data, subjects = toy_data(), {"m": prototype_classifier(DATA)}
    stored = Examples(data.test.stored, data.test.labels, torch.arange(len(data.test)), mapped=True, content="x")
    mapped = type(data)(data.name, data.train, stored, data.classes, data.input_range)
    output = tmp_path / "out"
    assert "mapped from a file" in message_of(lambda: evaluate(subjects, mapped, output=output, workers=2))
    assert "exclude" in message_of(lambda: certify(subjects, data, output=output, workers=2, shard=Shard(0, 2)))
    assert "at least 1" in message_of(lambda: evaluate(subjects, data, output=output, workers=0))
    assert not output.exists()


def test_a_worker_whose_module_is_missing_there_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = type(sys)("only_here")
    monkeypatch.setitem(sys.modules, "only_here", module)
    kind = type("Net", (nn.Sequential,), {"__module__": "only_here"})
    module.__dict__["Net"] = kind
    network = kind(prototype_classifier(DATA))
    message = message_of(lambda: evaluate({"m": network}, DATA, FAST, output=tmp_path / "out", workers=2))
    assert "worker 1: model 'm' cannot be opened in another process" in message and "only_here" in message


def test_a_worker_that_fails_is_reported_in_one_line() -> None:
    def work() -> None:
        with beside([["-m", "robust_student", "evaluate", "--data", "digits", "--output", "nowhere"]]):
            pass

    assert message_of(work).startswith("worker 1: evaluate: name at least one run directory")


def test_a_worker_that_says_much_goes_on_while_nobody_listens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program, end_mark = tmp_path / "program", tmp_path / "said"
    code = "import pathlib, sys\nprint('x' * 500_000, file=sys.stderr)\n"
    program.write_text(f"#!{sys.executable}\n{code}pathlib.Path({str(end_mark)!r}).touch()\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    with beside([[]]):
        for _ in range(600):
            if end_mark.exists():
                break
            time.sleep(0.1)
        assert end_mark.exists()


def test_a_worker_does_not_outlive_a_failure_of_the_first_process() -> None:
    with pytest.raises(KeyboardInterrupt), beside([["-m", "robust_student", "demo", "--output", "unwanted"]]):
        raise KeyboardInterrupt
    assert not Path("unwanted").exists()
