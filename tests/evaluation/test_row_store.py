"""Several processes share an evaluation."""

from pathlib import Path
from typing import Any

import pytest
from reference import message_of
from toy_evaluation import ATTACKED, FAST, lines_of, run, timeless

from robust_student.evaluation import row_store
from robust_student.evaluation.row_store import Shard
from robust_student.results.rows import ROWS, SUMMARY
from robust_student.runtime.files import append_jsonl, read_json


@pytest.mark.parametrize("count", [1, 2, 5])
def test_shards_in_any_order_add_up_to_the_evaluation_of_one_process(
    count: int, attacked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, measured = tmp_path / "out", list[int]()
    original = append_jsonl

    def append(path: Path, rows: list[dict[str, Any]]) -> None:
        original(path, rows)
        measured.append(len(rows))

    monkeypatch.setattr(row_store, "append_jsonl", append)
    for index in reversed(range(count)):
        assert run(output, ATTACKED, shard=Shard(index, count)) == []
        assert not (output / SUMMARY).exists() and not (output / ROWS).exists()
    assert sum(measured) == len(lines_of(attacked))
    records = run(output, ATTACKED)
    assert sum(measured) == len(lines_of(attacked))  # nothing was left to measure
    assert lines_of(output) == lines_of(attacked) and not list(output.glob("rows-*"))
    assert timeless(records) == timeless(read_json(attacked / SUMMARY))


def test_what_a_shard_has_not_measured_is_measured_at_the_end(finished: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    run(output, shard=Shard(1, 3))
    part = output / "rows-1-of-3.jsonl"
    part.write_bytes(part.read_bytes()[:-40])  # killed in the middle of a line
    records = run(output)
    assert lines_of(output) == lines_of(finished)
    assert timeless(records) == timeless(read_json(finished / SUMMARY))


def test_a_shard_of_another_evaluation_is_refused(tmp_path: Path) -> None:
    run(tmp_path / "out", shard=Shard(0, 2))
    other = FAST.model_copy(update={"seed": 1})
    assert "other models, data or settings" in message_of(lambda: run(tmp_path / "out", other, shard=Shard(1, 2)))


def test_a_shard_is_written_as_index_and_count() -> None:
    assert Shard.parse("3/4") == Shard(3, 4)
    for text in ("4/4", "a/b", "1", "-1/2", "0/0", "1/2/3"):
        assert text in message_of(lambda text=text: Shard.parse(text))  # type: ignore[misc]
