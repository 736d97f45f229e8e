"""Several processes measure what one measures."""

from pathlib import Path
from typing import Any

import pytest
from command_line import refused, run
from rounding import one_process

from robust_student.cli.main import main
from robust_student.evaluation import row_store
from robust_student.runtime.files import append_jsonl

QUICK = [
    "--examples",
    "40",
    "--attack-examples",
    "20",
    "--batch-size",
    "5",
    "--pgd-steps",
    "3",
    "--snr-db",
    "0",
    "--autoattack",
    "none",
]


@one_process
def test_workers_and_shards_measure_what_one_process_measures(teacher: Path, tmp_path: Path) -> None:
    models = ["evaluate", f"teacher={teacher}", "--data", "digits", "--device", "cpu", *QUICK]
    run(*models, "--output", str(tmp_path / "one"))
    run(*models, "--output", str(tmp_path / "two"), "--workers", "2")
    for index in (1, 0):
        run(*models, "--output", str(tmp_path / "shards"), "--shard", f"{index}/2")
        assert not (tmp_path / "shards" / "summary.json").exists()
    run(*models, "--output", str(tmp_path / "shards"))
    rows = {name: set((tmp_path / name / "rows.jsonl").read_text().splitlines()) for name in ("one", "two", "shards")}
    assert rows["one"] == rows["two"] == rows["shards"] and len(rows["one"]) > 100


@one_process
def test_workers_certify_what_one_process_certifies(teacher: Path, tmp_path: Path) -> None:
    words = ["certify", f"teacher={teacher}", "--data", "digits", "--device", "cpu", "--examples", "20"]
    words += ["--linear-examples", "10", "--batch-size", "5", "--methods", "interval", "--attacks", "pgd-bisection"]
    run(*words, "--output", str(tmp_path / "one"))
    run(*words, "--output", str(tmp_path / "two"), "--workers", "2")
    rows = {name: set((tmp_path / name / "rows.jsonl").read_text().splitlines()) for name in ("one", "two")}
    assert rows["one"] == rows["two"] and len(rows["one"]) > 50


def test_workers_share_the_batches(teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[int] = []

    def append(path: Path, rows: list[dict[str, Any]]) -> None:
        append_jsonl(path, rows)
        measured.append(len(rows))

    monkeypatch.setattr(row_store, "append_jsonl", append)
    run("evaluate", str(teacher), "--data", "digits", *QUICK, "--workers", "3", "--output", str(tmp_path / "out"))
    whole = len((tmp_path / "out" / "rows.jsonl").read_text().splitlines())
    assert whole / 4 < sum(measured) < whole / 2


def test_an_unknown_choice_names_the_others_and_no_none(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["report", "x", "--format", "pdf"])
    complaint = capsys.readouterr().err
    assert all(f"'{choice}'" in complaint for choice in ("html", "markdown", "json")) and "None" not in complaint


def test_bad_shards_are_refused(teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["evaluate", str(teacher), "--data", "digits", "--output", str(tmp_path / "out")]
    assert "'2/2' is not INDEX/COUNT" in refused(capsys, *words, "--shard", "2/2")
    assert "exclude each other" in refused(capsys, *words, "--shard", "0/2", "--workers", "2")
    assert "certify: --workers and --shard" in refused(
        capsys, "certify", *words[1:], "--shard", "0/2", "--workers", "2"
    )
    assert not (tmp_path / "out").exists()
