"""The rows of a run of measurements: filled batch by batch, so that an interrupted run continues where it stopped."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from robust_student.core.errors import UserError
from robust_student.core.tensors import slices
from robust_student.evaluation.measurements import MeasuredBatch, Measurement
from robust_student.models.model import Model
from robust_student.models.probe import difference
from robust_student.results.rows import BREAKDOWN, GALLERY, ROWS, SUMMARY, Key, Row, group
from robust_student.runtime.files import (
    append_jsonl,
    read_json,
    read_jsonl,
    require_writable,
    write_atomically,
    write_json,
)
from robust_student.runtime.progress import Advance
from robust_student.runtime.provenance import provenance
from robust_student.runtime.threads import threads_for

_ROWS = TypeAdapter(list[Row])


@dataclass(frozen=True, eq=False)
class Sample:
    """The test examples to measure, on the device, in the order measured."""

    positions: Tensor
    """In the test set."""
    inputs: Tensor
    labels: Tensor
    teacher_logits: Tensor | None

    def batch(self, model: str, part: slice) -> MeasuredBatch:
        """Some of them, as a model of that name is measured on them."""
        scores = None if self.teacher_logits is None else self.teacher_logits[part]
        return MeasuredBatch(model, self.positions[part].tolist(), self.inputs[part], self.labels[part], scores)


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


@dataclass(frozen=True, eq=False)
class RowStore:
    """A directory that holds the rows measured so far."""

    output: Path
    shard: Shard | None = None

    @classmethod
    def open(cls, output: Path, details: str, marks: dict[str, Any], shard: Shard | None = None) -> "RowStore":
        """Make the directory, or accept one that holds the unfinished beginning of the same run.

        Args:
            output: the directory.
            details: name of the JSON file in it that tells what the run is.
            marks: its fingerprint: what must be the same for an interrupted run to be continued.
            shard: what this process is to measure; None: everything that no shard has measured.
        """
        path, rows = output / details, output / (ROWS if shard is None else shard.rows)
        if path.exists() and not (output / SUMMARY).exists():
            saved = read_json(path)
            different = difference(saved.get("fingerprint") if isinstance(saved, dict) else None, marks)
            if different is None:
                if rows.exists() and not rows.read_bytes().endswith(b"\n"):
                    whole = read_jsonl(rows)  # without a last line that was cut
                    write_atomically(rows, "".join(json.dumps(row) + "\n" for row in whole).encode())
                return cls(output, shard)
            raise UserError(
                f"output {output}: holds an unfinished run with other models, data or settings ({different}); give the "
                "same command to continue it, choose another name, or remove it"
            )
        require_writable(output)
        for name in (ROWS, SUMMARY, BREAKDOWN, GALLERY):
            if (output / name).exists():
                raise UserError(f"output {output}: holds a finished run ({name}); choose another name or remove it")
        output.mkdir(parents=True, exist_ok=True)
        settings = marks["settings"]
        write_json(path, {"fingerprint": marks, "provenance": provenance(settings, marks["data"], settings["seed"])})
        return cls(output, shard)

    def fill(
        self,
        models: Mapping[str, Model],
        plans: Mapping[str, Sequence[Measurement]],
        sample: Sample,
        batch_size: int,
        work: Mapping[str, int] | None = None,
    ) -> dict[Key, dict[int, Row]]:
        """Measure every batch of every cell of every model's plan that has no rows yet; return the rows of the run.

        `work` holds what a batch costs each model, by which the number of threads is chosen (`threads_for`).

        A shard measures its own batches only, in the same batches as a single process, and returns what it has; the
        process without a shard collects the rows of all shards in one file at the end.
        """
        groups, torn, passed = group(self._saved()), False, 0
        rows_file = self.output / (ROWS if self.shard is None else self.shard.rows)
        cells = [(name, cell) for name in models for cell in plans[name]]
        turns = ((name, cell, part) for name, cell in cells for part in slices(cell.count, batch_size))
        with Advance(sum(cell.count for _, cell in cells)) as advance:
            for turn, (name, cell, part) in enumerate(turns):
                advance.update(passed, f"{name}: {cell.title}")
                indices, done = sample.positions[part].tolist(), groups[cell.key(name)]
                is_own_turn = self.shard is None or turn % self.shard.count == self.shard.index
                missing = [index for index in indices if index not in done] if is_own_turn else []
                if missing:
                    torn |= len(missing) < len(indices)  # a crash within a write: rows of it will come twice
                    with threads_for((work or {}).get(name)):
                        rows = cell.run(models[name], sample.batch(name, part))
                    append_jsonl(rows_file, [asdict(row) for row in rows])
                    done.update({row.index: row for row in rows})
                passed += len(indices)
                advance.update(passed, f"{name}: {cell.title}")
        if self.shard is None and (torn or self._shards()):
            self._collect()
        order = sample.positions.tolist()
        return {
            key: {index: groups[key][index] for index in order[: cell.count] if index in groups[key]}
            for name, cell in cells
            for key in [cell.key(name)]
        }

    def _saved(self) -> list[Row]:
        saved = []
        for path in [self.output / ROWS, *self._shards()]:
            try:
                saved += _ROWS.validate_python(read_jsonl(path)) if path.exists() else []
            except ValidationError:
                raise UserError(
                    f"file {path}: damaged (a line is not a row); remove {self.output} and start again"
                ) from None
        return saved

    def _shards(self) -> list[Path]:
        return sorted(self.output.glob("rows-*-of-*.jsonl"))

    def _collect(self) -> None:
        """All rows in one file, each once; then the shards' files can go."""
        shards = self._shards()
        rows = {(row.model, row.perturbation, row.setting, row.index): row for row in self._saved()}
        write_atomically(self.output / ROWS, "".join(json.dumps(asdict(row)) + "\n" for row in rows.values()).encode())
        for path in shards:
            path.unlink()
