"""Processes beside this one that measure their shards of the same run."""

import io
import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from types import FunctionType
from typing import Any

import torch
from torch import nn

from robust_student.core.errors import UserError
from robust_student.core.settings import Settings
from robust_student.data.readers.load import Data
from robust_student.evaluation.row_store import Shard


@contextmanager
def beside(programs: Sequence[Sequence[str]], variables: Mapping[str, str] | None = None) -> Iterator[None]:
    """Run `python` with each list of words while the block runs; wait for all of them at its end.

    Where the block fails or is interrupted they are stopped; what they have written stays and is continued by the same
    command. `variables` are added to their environment. Raises UserError with the last line that a failed process
    printed.
    """
    environment = os.environ | dict(variables or {})
    with ExitStack() as files:
        started = []
        for words in programs:
            errors = files.enter_context(tempfile.TemporaryFile())  # a pipe that nobody reads could fill and stop it
            program = [sys.executable, *words]
            process = subprocess.Popen(
                program, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors, env=environment
            )
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


@contextmanager
def helped(
    measure: Callable[..., Any],
    models: Mapping[str, nn.Module],
    data: Data,
    settings: Settings,
    output: Path,
    workers: int,
    shard: Shard | None,
) -> Iterator[Shard]:
    """While the block measures the shard that it is given, `workers` - 1 other processes measure the rest.

    Models, test set and settings are handed over as a pickle in a private temporary file.

    Args:
        measure: `evaluate` or `certify`.
        models: name -> model.
        data: of which the test set is handed over.
        settings: of `measure`.
        output: of `measure`.
        workers: processes in all, this one included.
        shard: what the caller was to measure; it must be everything (None).

    Raises UserError where a model cannot be handed over, or the test set is mapped from a file.
    """
    if workers < 1:
        raise UserError(f"workers: must be at least 1 (got {workers})")
    if shard is not None:
        raise UserError("workers and shard exclude each other: the workers are the shards")
    if data.test.mapped:
        raise UserError(
            f"workers: the test set of '{data.name}' is mapped from a file, which cannot be handed to another process; "
            "use the command line's --workers, or shards"
        )
    handed = {name: _pickled(name, model) for name, model in models.items()}
    tested = replace(data, train=data.test, validation=None)  # nothing is measured on the others
    job = (measure, handed, tested, settings, output.absolute(), torch.get_num_threads())
    variables = {
        "PYTHONPATH": os.pathsep.join(str(Path(place).absolute()) for place in sys.path),  # "" is the working directory
        "PYTHONSAFEPATH": "1",  # nothing before it
        "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "passive"),  # see __main__.py
    }
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "job.pickle"
        file.write_bytes(pickle.dumps(job))
        code = f"from {__name__} import measure_shard; measure_shard({str(file)!r}, "
        with beside([["-c", f"{code}'{k}/{workers}')"] for k in range(1, workers)], variables):
            yield Shard(0, workers)


class _Pickler(pickle.Pickler):
    """Refuses what another process could not find: the classes of a script or notebook itself."""

    def reducer_override(self, thing: Any) -> Any:
        if isinstance(thing, (type, FunctionType)) and thing.__module__ == "__main__":
            raise pickle.PicklingError(f"{thing.__qualname__} is defined in the script or notebook itself")
        return NotImplemented


def _pickled(name: str, model: nn.Module) -> bytes:
    buffer = io.BytesIO()
    try:
        _Pickler(buffer).dump(model)
    except (pickle.PicklingError, AttributeError, TypeError, RuntimeError, ValueError) as error:
        raise UserError(
            f"workers: model '{name}' cannot be handed to another process ({' '.join(str(error).split())}); define its "
            "class in a module that can be imported, or measure with one process"
        ) from None
    return buffer.getvalue()


def measure_shard(file: str, shard: str) -> None:
    """All that a process beside does: measure its shard of the job in a file that the first process wrote."""
    measure, handed, data, settings, output, threads = pickle.loads(Path(file).read_bytes())
    torch.set_num_threads(threads)
    try:
        models = {name: _opened(name, content) for name, content in handed.items()}
        measure(models, data, settings, output=output, shard=Shard.parse(shard))
    except UserError as error:
        sys.exit(str(error))  # on standard error


def _opened(name: str, content: bytes) -> nn.Module:
    try:
        model: nn.Module = pickle.loads(content)
    except (ImportError, AttributeError) as error:
        raise UserError(f"model '{name}' cannot be opened in another process ({error})") from None
    return model
