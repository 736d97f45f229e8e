"""The run directory of an unfinished training: its inputs and settings, its checkpoints, and how it is finished."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from robust_student.core.errors import UserError
from robust_student.models.fingerprint import difference
from robust_student.models.model import Model
from robust_student.models.run_directory import METRICS, TRAINING, require_new, save
from robust_student.runtime import distributed
from robust_student.runtime.files import append_jsonl, read_json, write_json
from robust_student.training.checkpoints import Checkpoints

_SHARE = 0.1
"""Of the time that may go to writing checkpoints: large ones are written less often."""
_LAST_GOOD = "last-good"
"""Name of the run directory inside an unfinished run that holds the weights from before a divergence."""


class UnfinishedRun:
    """A run directory that holds no model yet: `training.json`, `metrics.jsonl` and `checkpoints`.

    With several processes only the first writes; all of them read, so the directory must be one that all can see.
    """

    def __init__(self, output: Path, marks: Mapping[str, Any], minutes: float) -> None:
        """Make the directory, or accept the unfinished beginning of the same training.

        Args:
            output: the directory.
            marks: what must be the same for the training to be continued.
            minutes: between checkpoints; 0: one every step.

        Raises UserError where the directory holds anything else, and names the first mark that differs.
        """
        self.output, self.minutes = output, minutes
        distributed.rank_zero(lambda: self._open(marks))
        self.checkpoints = Checkpoints(output)
        self._saved = time.monotonic()

    def _open(self, marks: Mapping[str, Any]) -> None:
        require_new(self.output)
        self.output.mkdir(parents=True, exist_ok=True)
        path = self.output / TRAINING
        if not path.exists():
            write_json(path, dict(marks))
            return
        different = difference(read_json(path), dict(marks))
        if different is not None:
            raise UserError(
                f"output {self.output}: holds an unfinished training of something else ({different}); give the same "
                "command to continue it, choose another name, or remove it"
            )

    def latest(self) -> dict[str, Any] | None:
        """The state from which to continue; None where there is none yet."""
        newest = self.checkpoints.latest()
        return None if newest is None else newest[1]

    def due(self) -> bool:
        """Whether it is time for a checkpoint."""
        pause = 0.0 if self.minutes == 0 else max(60 * self.minutes, self.checkpoints.seconds / _SHARE)
        return time.monotonic() - self._saved >= pause

    def save(self, step: int, state: dict[str, Any], files: Mapping[int, BinaryIO]) -> None:
        """Write a checkpoint, as `Checkpoints.save` does; UserError where that fails."""
        distributed.rank_zero(lambda: self.checkpoints.save(step, state, files))
        self._saved = time.monotonic()

    def record(self, history: Sequence[dict[str, Any]]) -> None:
        """Write the records of the epochs so far."""
        if distributed.rank() == 0:
            (self.output / METRICS).unlink(missing_ok=True)
            append_jsonl(self.output / METRICS, history)

    def keep_last_good(self, model: Model) -> Path:
        """Save weights from before a divergence as a run directory of its own; where it is."""
        folder = self.output / _LAST_GOOD
        if distributed.rank() == 0:
            folder.mkdir(exist_ok=True)
            save(model, folder)
        return folder

    def finish(self, model: Model, history: Sequence[dict[str, Any]]) -> None:
        """Turn the directory into a run: the model is written last but for the clearing away."""

        def write() -> None:
            try:
                self.record(history)
                save(model, self.output)
            except OSError as error:
                raise UserError(
                    f"output {self.output}: cannot write the model ({error.strerror}); remove the cause and give "
                    "the same command again"
                ) from None
            (self.output / TRAINING).unlink(missing_ok=True)
            self.checkpoints.clear()

        distributed.rank_zero(write)
