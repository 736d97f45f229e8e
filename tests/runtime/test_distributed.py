"""Two processes against one: gradients, validation, a sharded teacher, errors, and who writes."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import two_processes
from rounding import one_process
from torch import Tensor

from robust_student.cli.main import main
from robust_student.core.errors import UserError
from robust_student.models.run_directory import load
from robust_student.runtime import distributed
from robust_student.runtime.files import read_json

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([*sys.path, "tests"])}


def torchrun(*words: str | Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=500)


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes wrote."""
    output = tmp_path_factory.mktemp("together")
    done = torchrun(Path(two_processes.__file__), output)
    assert done.returncode == 0, done.stderr[-3000:]
    return output


@pytest.fixture(scope="module")
def runs(output: Path) -> dict[str, Any]:
    return torch.load(output / "found.pt", weights_only=True)


def apart(a: Tensor, b: Tensor) -> float:
    """||a - b|| / ||b||."""
    return float(torch.linalg.vector_norm(a - b) / torch.linalg.vector_norm(b))


@one_process
@pytest.mark.parametrize("name", list(two_processes.CASES))
def test_two_processes_have_the_gradients_and_the_result_of_one(name: str, runs: dict[str, Any]) -> None:
    alone = two_processes.case(name, None)
    first = [torch.cat([g.flatten() for g in run["gradients"][0]]) for run in (runs[name], alone)]
    assert apart(*first) < 1e-6
    assert len(runs[name]["gradients"]) == len(alone["gradients"]) > 10
    for weight in alone["weights"]:
        torch.testing.assert_close(runs[name]["weights"][weight], alone["weights"][weight], atol=2e-4, rtol=1e-3)
    for (terms, accuracies), (terms_alone, accuracies_alone) in zip(
        runs[name]["figures"], alone["figures"], strict=True
    ):
        assert terms == pytest.approx(terms_alone, rel=1e-3)
        assert accuracies == pytest.approx(accuracies_alone, abs=0.051)  # one of 20


def test_only_the_first_process_writes_and_the_run_is_whole(output: Path) -> None:
    for name, (settings, _) in two_processes.CASES.items():
        assert sorted(path.name for path in (output / name).iterdir()) == [
            "metrics.jsonl",
            "model.json",
            "model.safetensors",
        ]
        assert load(output / name, network=two_processes.student()).card.provenance["epoch"] <= settings.epochs


def test_an_undone_epoch_is_the_same_in_both_processes(output: Path) -> None:
    run = load(output / "catastrophic overfitting", network=two_processes.student())
    assert ["undone" in record for record in run.history] == [False, True, False]
    assert run.card.provenance["epoch"] != 2 and "--secant.steps 2" in run.card.provenance["warnings"][0]


def test_a_signal_to_one_process_stops_both_and_the_rest_is_the_same_to_the_bit(
    output: Path, runs: dict[str, Any]
) -> None:
    messages = [(output / "interrupted" / f"said-{process}.txt").read_text() for process in (0, 1)]
    assert messages[0] == messages[1] and "interrupted after step 5" in messages[0]
    again = torch.load(output / "again.pt", weights_only=True)
    assert again["figures"] == runs["kd"]["figures"]
    assert len(again["gradients"]) == len(runs["kd"]["gradients"]) - 5
    for name, weight in runs["kd"]["weights"].items():
        assert torch.equal(again["weights"][name], weight)


def test_a_teacher_spread_over_the_processes_gives_the_scores_of_a_whole_one(output: Path) -> None:
    scores = torch.load(output / "scores.pt", weights_only=True)
    torch.testing.assert_close(scores, two_processes.sharded_scores(), atol=1e-6, rtol=1e-5)


def test_a_nan_in_one_process_stops_both_with_the_same_words(output: Path) -> None:
    messages = [(output / f"bomb-{process}.txt").read_text() for process in (0, 1)]
    assert messages[0] == messages[1] and "term 'cross_entropy' is NaN or infinite at step 1 of epoch 1" in messages[0]
    assert (output / "bomb" / "last-good" / "model.json").exists()


def test_both_processes_know_the_same_validation_accuracy(output: Path) -> None:
    accuracies = [torch.load(output / f"digits-{process}.pt", weights_only=True) for process in (0, 1)]
    assert accuracies[0] == accuracies[1] and 0.5 < accuracies[0]["clean"] <= 1


@one_process
def test_the_commands_run_under_torchrun(tmp_path: Path) -> None:
    """Train and evaluate with two processes; the evaluation has the rows of a single process."""
    words = ["train", "--data", "digits", "--model", "mlp:8", "--epochs", "1", "--device", "cpu"]
    done = torchrun("-m", "robust_student", *words, "--output", tmp_path / "run")
    assert done.returncode == 0 and done.stdout.count("kept; validation") == 1, done.stderr[-3000:]
    words = ["evaluate", str(tmp_path / "run"), "--data", "digits", "--suite", "quick", "--device", "cpu"]
    words += ["--examples", "40", "--attack-examples", "10", "--batch-size", "10", "--pgd-steps", "2"]
    words += ["--autoattack", "none", "--masking.examples", "10"]
    done = torchrun("-m", "robust_student", *words, "--output", tmp_path / "two")
    assert done.returncode == 0 and done.stdout.count("summary:") == 1, done.stderr[-3000:]
    main([*words, "--output", str(tmp_path / "one")])

    def summary(name: str) -> list[dict[str, Any]]:
        return [record for record in read_json(tmp_path / name / "summary.json") if record["metric"] != "latency"]

    rows = [sorted((tmp_path / name / "rows.jsonl").read_text().splitlines()) for name in ("one", "two")]
    assert rows[0] == rows[1] and summary("one") == summary("two")


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are listed by Linux only")
def test_no_thread_of_the_group_outlives_it(output: Path) -> None:
    """A thread of gloo that holds a tensor when the interpreter ends aborts the process."""
    assert [(output / f"threads-{process}.txt").read_text() for process in (0, 1)] == ["True False"] * 2


def test_a_single_process_needs_nobody() -> None:
    value = torch.tensor([3])
    assert distributed.rank() == 0 and distributed.size() == 1
    assert (
        distributed.all_reduce_sum(value) is value
        and distributed.all_reduce_max(value) is value
        and distributed.all_gather(value) is value
    )
    assert distributed.broadcast(True) and distributed.rank_zero(lambda: 5) == 5
    with pytest.raises(UserError, match="mine"):
        distributed.rank_zero(lambda: (_ for _ in ()).throw(UserError("mine")))
