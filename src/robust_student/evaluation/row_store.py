"""The rows of a run of measurements on disk: an interrupted run continues where it stopped, shards are put together."""

import json
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from robust_student.core.errors import UserError
from robust_student.models.fingerprint import difference
from robust_student.results.rows import BREAKDOWN, GALLERY, ROWS, SUMMARY, Key, Row, group
from robust_student.runtime.files import (
    append_jsonl,
    read_json,
    read_jsonl,
    require_writable,
    write_atomically,
    write_json,
)
from robust_student.runtime.provenance import provenance

_ROWS = TypeAdapter(list[Row])


@dataclass(frozen=True)
class Shard:
    """The batches that one of several processes measures: every `count`-th, from `index` on."""

    index: int
    """From 0."""
    count: int

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """From `INDEX/COUNT`, say `0/4`; UserError otherwise."""
        match = re.fullmatch(r"(\d+)/(\d+)", text)
        if match is None or int(match[1]) >= int(match[2]):
            raise UserError(f"shard: '{text}' is not INDEX/COUNT with INDEX below COUNT, such as 0/4")
        return cls(int(match[1]), int(match[2]))

    @property
    def rows(self) -> str:
        """Name of the file that its rows go to."""
        return f"rows-{self.index}-of-{self.count}.jsonl"

    def has(self, turn: int) -> bool:
        """Whether the batch of this number, from 0, is one of its own."""
        return turn % self.count == self.index


class RowStore:
    """A directory that holds the rows measured so far.

    A shard writes a file of its own; the process without a shard collects the rows of all shards in one file.
    """

    def __init__(self, output: Path, shard: Shard | None = None) -> None:
        """Of a directory that `open` has accepted; UserError where a line in it is not a row."""
        self.output, self.shard = output, shard
        self._groups = group(_saved(output))
        self._repeated = False
        """Whether the files hold an example twice."""

    @classmethod
    def open(cls, output: Path, details: str, marks: dict[str, Any], shard: Shard | None = None) -> "RowStore":
        """Make the directory, or accept one that holds the unfinished beginning of the same run.

        Args:
            output: the directory.
            details: name of the JSON file in it that tells what the run is.
            marks: its fingerprint: what must be the same for an interrupted run to be continued.
            shard: what this process is to measure; None: everything that no shard has measured.
        """
        path = output / details
        if path.exists() and not (output / SUMMARY).exists():
            _require_same(path, marks)
            _cut_torn_line(output / (ROWS if shard is None else shard.rows))
            return cls(output, shard)
        require_writable(output)
        for name in (ROWS, SUMMARY, BREAKDOWN, GALLERY):
            if (output / name).exists():
                raise UserError(f"output {output}: holds a finished run ({name}); choose another name or remove it")
        output.mkdir(parents=True, exist_ok=True)
        settings = marks["settings"]
        write_json(path, {"fingerprint": marks, "provenance": provenance(settings, marks["data"], settings["seed"])})
        return cls(output, shard)

    def has(self, keys: Iterable[Key], indices: Collection[int]) -> bool:
        """Whether every one of these examples has its row of each key."""
        return all(index in self._groups[key] for key in keys for index in indices)

    def add(self, rows: Sequence[Row]) -> None:
        """Append the rows of a batch."""
        append_jsonl(self.output / (ROWS if self.shard is None else self.shard.rows), [asdict(row) for row in rows])
        for row in rows:
            saved = self._groups[row.key]
            self._repeated |= row.index in saved  # a crash within a write left some of them
            saved[row.index] = row

    def rows(self, key: Key, indices: Iterable[int]) -> dict[int, Row]:
        """Those of the examples that have one, in the order of `indices`."""
        saved = self._groups[key]
        return {index: saved[index] for index in indices if index in saved}

    def close(self) -> None:
        """Where this process has no shard: all rows in one file, each once; then the shards' files can go."""
        shards = _shards(self.output)
        if self.shard is not None or not (self._repeated or shards):
            return
        rows = {(*row.key, row.index): row for row in _saved(self.output)}
        lines = (json.dumps(asdict(row)) + "\n" for row in rows.values())
        write_atomically(self.output / ROWS, "".join(lines).encode())
        for path in shards:
            path.unlink()


def _require_same(path: Path, marks: dict[str, Any]) -> None:
    """UserError where the unfinished run that a file tells of is another one."""
    saved = read_json(path)
    different = difference(saved.get("fingerprint") if isinstance(saved, dict) else None, marks)
    if different is not None:
        raise UserError(
            f"output {path.parent}: holds an unfinished run with other models, data or settings ({different}); give "
            "the same command to continue it, choose another name, or remove it"
        )


def _cut_torn_line(path: Path) -> None:
    """Take away a last line that a crash cut."""
    if path.exists() and not path.read_bytes().endswith(b"\n"):
        write_atomically(path, "".join(json.dumps(row) + "\n" for row in read_jsonl(path)).encode())


def _saved(output: Path) -> list[Row]:
    saved = []
    for path in [output / ROWS, *_shards(output)]:
        try:
            saved += _ROWS.validate_python(read_jsonl(path)) if path.exists() else []
        except ValidationError:
            raise UserError(f"file {path}: damaged (a line is not a row); remove {output} and start again") from None
    return saved


def _shards(output: Path) -> list[Path]:
    return sorted(output.glob("rows-*-of-*.jsonl"))
