"""Processes beside this one that measure their shards of the same evaluation."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from robust_student.core.errors import UserError


@contextmanager
def beside(commands: Sequence[Sequence[str]]) -> Iterator[None]:
    """Run `robust-student` with each list of words while the block runs; wait for all of them at its end.

    Where the block fails or is interrupted they are stopped; what they have written stays and is continued by the same
    command. Raises UserError with the last line that a failed process printed.
    """
    with ExitStack() as files:
        started = []
        for words in commands:
            errors = files.enter_context(tempfile.TemporaryFile())  # a pipe that nobody reads could fill and stop it
            program = [sys.executable, "-m", "robust_student", *words]
            process = subprocess.Popen(program, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors)
            started.append((process, errors))
        try:
            yield
            for number, (process, errors) in enumerate(started, start=1):
                if process.wait() != 0:
                    errors.seek(0)
                    lines = errors.read().decode(errors="replace").strip().splitlines()
                    last = lines[-1] if lines else f"exit code {process.returncode}"
                    raise UserError(f"worker {number}: {last.removeprefix('robust-student: error: ')}")
        finally:
            for process, _ in started:
                if process.poll() is None:
                    process.terminate()
                    process.wait()
