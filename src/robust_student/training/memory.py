"""Where the perturbations that a training keeps lie: on its device where they fit, else mapped from a file."""

import logging
import math
import os
import shutil
import tempfile
import weakref
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import torch

from robust_student.core.errors import UserError
from robust_student.data.cache import VARIABLE, cache_directory
from robust_student.data.examples import Examples
from robust_student.data.streams import Stream
from robust_student.objectives.kept_perturbations import KeptPerturbations
from robust_student.runtime import distributed
from robust_student.runtime.hardware import free_memory, readable
from robust_student.training.checkpoints import CHECKPOINT_FOLDER
from robust_student.training.overfitting import is_cheap
from robust_student.training.settings import DistillSettings

_SHARE = 0.5
"""Of the free memory of a device that kept perturbations may take."""
_COPIES = 3
"""In the run directory: two checkpoints, and one that is being written."""

_log = logging.getLogger(__name__)


def memory_of(
    settings: DistillSettings, source: Examples | Stream, device: torch.device, output: Path | None
) -> tuple[DistillSettings, KeptPerturbations | None]:
    """The perturbations that a persistent start keeps, and the settings; a random start where nothing can be kept.

    Raises UserError where the disk has no room for them or for their copies in the checkpoints of the run `output`.
    """
    training, objective = settings.training, settings.objective
    if not objective.persistent:
        return settings, None
    mixed = training.augmentation.mixup > 0 or training.augmentation.cutmix > 0
    if mixed or isinstance(source, Stream):
        why = "mixtures of examples" if mixed else "a stream of examples without numbers"
        _log.warning("secant.start: random instead of persistent, because nothing can be kept for %s", why)
        secant = objective.secant.model_copy(update={"start": "random", "steps": max(objective.secant.steps, 1)})
        return settings.model_copy(update={"objective": objective.model_copy(update={"secant": secant})}), None
    count, elements = len(source), len(source) * math.prod(source.shape)
    times = 2 if is_cheap(objective.secant) else 1  # in memory those of the last good epoch are kept, too
    needed, folder = times * (elements + 4 * count), _folder(output)
    if _fits(needed, source, device):
        distributed.rank_zero(lambda: _require_room(0, times * elements, output))
        _log.info("kept perturbations: %s on %s", readable(needed), device)
        return settings, KeptPerturbations(count, source.shape, device)
    distributed.rank_zero(lambda: _require_room(elements * distributed.size_here(), elements, output))
    _log.info(
        "kept perturbations: %s, more than half of the free memory: mapped from a file in %s", readable(needed), folder
    )
    file = _unnamed(folder, elements, output)
    kept = KeptPerturbations(count, source.shape, device, file)
    weakref.finalize(kept, file.close)
    return settings, kept


def _fits(needed: int, source: Examples, device: torch.device) -> bool:
    """Whether so many bytes fit into _SHARE of what every process has left beside the training data.

    Data in memory will be moved to the device; mapped data want to stay in the main memory's cache of files.
    """
    free = free_memory(device)
    if free is None:
        return True
    on_host = device.type == "cpu"
    bytes_of_data = len(source) * math.prod(source.shape) * source.stored.element_size()
    data = bytes_of_data if source.mapped == on_host else 0
    sharing = distributed.size_here() if on_host else 1
    lacking = torch.tensor(int(needed * sharing > _SHARE * (free - data)), device=device)
    return not bool(distributed.all_reduce_max(lacking))


def _folder(output: Path | None) -> Path:
    """Where the file lies: on the disk of the run directory, which may not be there yet, else in the cache."""
    path = cache_directory() if output is None else output
    return next(folder for folder in (path, *path.absolute().parents) if folder.is_dir())


def _require_room(mapped: int, elements: int, output: Path | None) -> None:
    """Raise UserError where the disk lacks room for `mapped` bytes and the checkpoints of a run."""
    copies = 0
    if output is not None:
        there = sum(path.stat().st_size for path in (output / CHECKPOINT_FOLDER).glob("step-*.bytes"))
        copies = max(0, _COPIES * elements - there)
    free = shutil.disk_usage(_folder(output)).free
    if mapped + copies > free:
        raise UserError(_complaint(output, f"{readable(mapped + copies)} of disk, {readable(free)} are free"))


def _unnamed(folder: Path, size: int, output: Path | None) -> BinaryIO:
    """A file of zeros without a name and with all of its blocks: it vanishes with this process, however that ends."""
    with ExitStack() as stack:
        try:
            file = stack.enter_context(tempfile.TemporaryFile(dir=folder))
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)  # a mapped page that finds no room ends the process
            else:
                file.truncate(size)
        except OSError as error:
            raise UserError(_complaint(output, f"{readable(size)} of disk ({error.strerror})")) from None
        stack.pop_all()
        return file


def _complaint(place: Path | None, need: str) -> str:
    where = f"cache {cache_directory()}" if place is None else f"output {place}"
    remedy = f"set {VARIABLE} to a directory with room" if place is None else "name an output with more room"
    return f"{where}: the kept perturbations need {need}; {remedy}, or take --secant.start random"
