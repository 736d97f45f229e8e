"""How far a long job is, on standard error: a bar on a terminal, one line a minute elsewhere."""

import threading
import time
from datetime import timedelta
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column

_SILENCE = 60.0
"""Seconds between two lines where standard error is not a terminal: a shorter job says nothing there."""
_LOOK = 1.0
"""Seconds between two looks at the clock while a part is worked on."""
_SPEED = 600.0  # seconds: one batch of an attack may take a minute


class Advance:
    """A job of `total` parts; the time that is left is estimated from its speed in the last ten minutes.

    A thread writes the lines that are due while a part is worked on: one batch of an attack may take many minutes.
    """

    def __init__(self, total: int, done: int = 0, *, quiet: bool = False) -> None:
        """A job that begins with `done` parts done; a `quiet` one says nothing."""
        self.console, self.quiet = Console(stderr=True, soft_wrap=True), quiet
        columns = (BarColumn(20), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        self.bar = Progress(
            *columns,
            TextColumn("{task.description}", markup=False, table_column=Column(ratio=1, no_wrap=True)),
            console=self.console,
            expand=True,
            disable=quiet or not self.console.is_terminal,
            speed_estimate_period=_SPEED,
        )
        self.bar.add_task("", total=total, completed=done)
        (self.task,) = self.bar.tasks
        self.told = time.monotonic()
        self._telling, self._over = threading.Lock(), threading.Event()

    def __enter__(self) -> "Advance":
        self.bar.start()
        if not (self.quiet or self.console.is_terminal):
            threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self.bar.stop()

    def update(self, done: int, what: str) -> None:
        """Say that `done` parts are done, and what the job is at."""
        self.bar.update(self.task.id, completed=done, description=what)
        if not (self.quiet or self.console.is_terminal):
            self._tell()

    def _watch(self) -> None:
        while not self._over.wait(_LOOK):
            self._tell()

    def _tell(self) -> None:
        """Write a line where one is due."""
        with self._telling:
            if self._over.is_set() or time.monotonic() - self.told < _SILENCE:
                return
            self.told, left, task = time.monotonic(), self.task.time_remaining, self.task
            about = "" if left is None else f", about {timedelta(seconds=round(left))} left"
            at = f" | {task.description}" if task.description else ""
            line = f"{task.completed:,.0f} of {task.total:,.0f}{about}{at}"
            self.console.print(line, markup=False, highlight=False)
