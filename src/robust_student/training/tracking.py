"""A training's figures for the dashboards that people already use, through accelerate's trackers."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from robust_student.core.errors import UserError
from robust_student.core.extras import require
from robust_student.runtime import distributed

TrackerName = Literal["tensorboard", "wandb", "mlflow"]
TRACKING_FOLDER = "tracking"
"""Name of the folder in a run directory that trackers which write files write to."""


class Tracking:
    """The trackers of one training; only the first process has any."""

    def __init__(self, names: Sequence[TrackerName], output: Path | None, settings: Mapping[str, Any]) -> None:
        """Start the trackers called `names` and tell them the settings.

        TensorBoard's files go to `output/tracking`; wandb and mlflow go where their own environment variables say.
        Raises UserError where a tracker's package is missing or it does not start, or there is no output to write to.
        """
        self._trackers: list[Any] = []
        if not names or distributed.rank() > 0:
            return
        if output is None:
            raise UserError("track: needs an output directory")
        require("accelerate.state", "track", "track").PartialState()
        tracking = require("accelerate.tracking", "track", "track")
        makers: dict[TrackerName, Callable[[], Any]] = {
            "tensorboard": lambda: tracking.TensorBoardTracker(TRACKING_FOLDER, logging_dir=output),
            "wandb": lambda: tracking.WandBTracker(output.name),
            "mlflow": lambda: tracking.MLflowTracker(output.name),
        }
        for name in names:
            try:
                tracker = makers[name]()
                tracker.start()
                tracker.store_init_configuration(_flat(settings))
            except (ImportError, NameError):
                raise UserError(f"track: {name} is not installed; pip install {name}") from None
            except Exception as error:  # whatever its own settings or its server make it say
                reason = next(iter(str(error).splitlines()), type(error).__name__)
                raise UserError(f"track: {name} did not start ({reason})") from error
            self._trackers.append(tracker)

    def log(self, record: Mapping[str, Any], step: int) -> None:
        """Pass on one epoch's record: `terms/NAME`, `validation/NAME`, `learning_rate`, `examples_per_second`."""
        values = _flat({name: value for name, value in record.items() if name != "seconds"})
        for tracker in self._trackers:
            tracker.log(values, step=step)

    def finish(self) -> None:
        """Let the trackers write what they still hold."""
        for tracker in self._trackers:
            tracker.finish()


def _flat(group: Mapping[str, Any], place: str = "") -> dict[str, Any]:
    """Nested values under names joined with a slash; lists and None as text."""
    flat: dict[str, Any] = {}
    for name, value in group.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{place}{name}/")
        else:
            flat[f"{place}{name}"] = value if isinstance(value, int | float | str) else str(value)
    return flat
