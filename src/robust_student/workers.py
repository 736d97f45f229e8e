"""Processes beside this one that measure their shards of the same evaluation."""

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from robust_student.tensors import UserError


@contextmanager
def beside(commands: Sequence[Sequence[str]]) -> Iterator[None]:
    """Run `robust-student` with each list of words while the block runs; wait for all of them at its end.

    Where the block fails or is interrupted they are stopped; what they have written stays and is continued by the same
    command. Raises UserError with the last line that a failed process printed.
    """
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "robust_student", *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for words in commands
    ]
    try:
        yield
        for number, process in enumerate(started, start=1):
            _, complaint = process.communicate()
            if process.returncode != 0:
                last = (complaint.strip().splitlines() or [f"exit code {process.returncode}"])[-1]
                raise UserError(f"worker {number}: {last.removeprefix('robust-student: error: ')}")
    finally:
        for process in started:
            if process.poll() is None:
                process.terminate()
                process.wait()
            if process.stderr is not None:
                process.stderr.close()
