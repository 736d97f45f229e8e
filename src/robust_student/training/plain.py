"""What a student's clean accuracy is compared with: a plain student, trained first or named, or the teacher."""

import logging
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from robust_student.core.errors import UserError
from robust_student.data.examples import Data
from robust_student.models.model import Model, require_fit
from robust_student.models.run_directory import METRICS, PLAIN, load
from robust_student.runtime import distributed
from robust_student.runtime.files import read_jsonl
from robust_student.training.batches import planned_epochs
from robust_student.training.floor import Plan, Reference
from robust_student.training.selection import Validation
from robust_student.training.settings import DistillSettings, FloorSettings

_SHARE_OF_PASS = 0.15
"""Of the epochs that the short plain student has, for each pass of a step: it costs at most 15 % of the training."""

_LARGEST = 4.0
"""Times the radius that fits the data: to there a radius may grow."""
_FIRST = 0.5
"""Times the radius that fits the data: where nobody names one, it grows from there."""
_DROP = 0.01
"""That a student may lose against a named plain student."""

_log = logging.getLogger(__name__)


def plan_of(settings: DistillSettings, teacher: Callable[[], float]) -> Plan | None:
    """How the radius moves in a training with these settings; None: it stays. `teacher` measures its clean accuracy."""
    floor, drop = settings.floor, settings.floor.max_accuracy_drop
    named = settings.objective.radius is not None
    if not settings.objective.has_ball:
        return None
    if floor.target_radius is not None:
        return Plan("target", 0.0)
    if drop is not None:
        return Plan("keep", drop / 100, largest=1.0 if named else _LARGEST)
    if named and floor.plain is None:
        return None
    return Plan("keep", 0.0 if floor.plain is None else _DROP, first=_FIRST, teacher=teacher())


def reference_of(
    settings: DistillSettings,
    data: Data,
    teacher: Model,
    validation: Validation,
    count: int,
    plain: Callable[[DistillSettings, Path | None], list[dict[str, Any]]],
    output: Path | None,
) -> Reference:
    """What clean accuracy is compared with in a training on `count` examples; `plain` trains a plain student."""
    if settings.floor.plain is not None:
        return _named(settings.floor.plain, data, validation)
    if settings.floor.max_accuracy_drop is not None:
        return Reference("the teacher", ((1.0, validation.clean(teacher)),), rising=False)
    return _short(settings, count, output, plain)


def short_plain(settings: DistillSettings, count: int) -> DistillSettings:
    """The settings of a plain student, on `count` examples, of 0.15 of the epochs for each pass of a step."""
    training = settings.training
    share = min(0.5, _SHARE_OF_PASS * settings.objective.passes)
    epochs = max(1, math.ceil(share * planned_epochs(count, training)))
    return settings.model_copy(
        update={
            "training": training.model_copy(update={"epochs": epochs, "track": ()}),
            "objective": settings.objective.scaled(0.0),
            "floor": FloorSettings(),
        }
    )


def _short(
    settings: DistillSettings,
    count: int,
    output: Path | None,
    train: Callable[[DistillSettings, Path | None], list[dict[str, Any]]],
) -> Reference:
    """The curve of a short plain student; `train` makes it, or it lies in `output` since before an interruption."""
    short = short_plain(settings, count)
    folder = None if output is None else output / PLAIN
    if folder is not None and distributed.rank_zero(lambda: (folder / "model.json").exists()):
        history = read_jsonl(folder / METRICS)
    else:
        _log.info("first %s, to compare clean accuracy with", _named_by_length(short.training.epochs or 1))
        history = train(short, folder)
    return _reference(_named_by_length(len(history)), history, 0.0)


def clear(output: Path) -> None:
    """Remove the short plain student of a finished training."""
    distributed.rank_zero(lambda: shutil.rmtree(output / PLAIN, ignore_errors=True))


def _named(run: str, data: Data, validation: Validation) -> Reference:
    """The plain student of a run directory, measured on this training's validation set; its curve from its history.

    Raises UserError where the run has no history of epochs or does not fit the data.
    """
    model = load(run)
    require_fit(model, data, "plain")
    if not model.history:
        raise UserError(
            f"plain {run}: no record of its epochs (metrics.jsonl); name a run that distill --method kd wrote"
        )
    measured = validation.clean(model)
    kept = model.card.provenance.get("epoch", len(model.history))
    last = model.history[kept - 1]["validation"]["clean"]
    return _reference(f"the plain student {run}", model.history, measured - last)


def _named_by_length(epochs: int) -> str:
    return f"a plain student of {epochs} epoch{'' if epochs == 1 else 's'}"


def _reference(name: str, history: list[dict[str, Any]], shift: float) -> Reference:
    points = [record["validation"]["clean"] + shift for record in history]
    best = max(points)
    return Reference(name, (*(((k + 1) / len(points), p) for k, p in enumerate(points[:-1])), (1.0, best)))
