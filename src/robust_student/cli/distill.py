"""The command `distill`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field

from robust_student.cli import terminal
from robust_student.cli.arguments import Command, Config, Flat, merged, value_of
from robust_student.cli.flags import names_of
from robust_student.core.errors import UserError, nearest, short
from robust_student.models.settings import TeacherSettings
from robust_student.objectives.methods import METHODS, with_objective
from robust_student.objectives.settings import ObjectiveSettings
from robust_student.training.settings import DistillSettings, FloorSettings, TrainingSettings


class Distill(Command):
    """Teach a small student to be accurate and robust."""

    starting_point: ClassVar[str] = "method"
    teacher: str
    """The teacher: a run directory; timm:NAME or torchvision:NAME with ,pretrained or @WEIGHTS; hub:USER/REPO or a
    folder in the hub's layout; pkg.module:factory[@WEIGHTS], file.py:factory[@WEIGHTS]; a .pt2 program
    (docs/models.md)."""
    data: str
    """digits, folder:DIR, mnist:DIR, ... (see train --help, docs/data.md): the data the teacher was trained on."""
    model: str
    """The student: linear, mlp:WIDTHS, cnn:WIDTH, resnet20, wrn-16-2, ..., timm:NAME, torchvision:NAME, hub:USER/REPO,
    pkg.module:factory or file.py:factory (docs/models.md)."""
    output: Path
    """New run directory."""
    image_size: int | None = Field(None, ge=4)
    """Side in pixels to which folder images are resized; None: what a run as teacher expects, else their common size
    up to 64, else 32."""
    group: str | None = None
    """What no split may part, as for train: a column's name or a pattern for file names; none: nothing; None: as in
    the training of the teacher."""
    trust: bool = False
    """Allow code that a .pt2 file holds, or that a run from elsewhere names, to run."""
    method: str = Field(
        "persistent",
        description=f"Starting point for the objective: {', '.join(METHODS)}. "
        "Its options, with those of its own: --method NAME --help.",
    )
    floor: Annotated[FloorSettings, Flat] = FloorSettings()
    tries: int | None = Field(None, ge=1, le=12)
    """With max_accuracy_drop: try this many radii and weights, each for half the epochs, then the best in full; None:
    one training whose radius moves."""
    cache_scores: bool = True
    """Keep the teacher's scores on disk for the next run with the same teacher, where training inputs do not change."""
    shard_teacher: bool = False
    """Spread the teacher's weights over the processes of a torchrun (FSDP): for teachers too big for one device."""
    teaching: Annotated[TeacherSettings, Flat] = TeacherSettings()
    training: Annotated[TrainingSettings, Flat] = TrainingSettings()
    objective: Annotated[ObjectiveSettings, Flat] = METHODS["persistent"]
    config: Config = None
    """YAML file with any of these settings; flags win over it."""

    @classmethod
    def variant(cls, words: Sequence[str], file: Mapping[str, Any]) -> type[Command]:
        """The command with the options of the method that a flag or the file names."""
        method = value_of(words, "--method") or file.get("method", "persistent")
        is_method = isinstance(method, str) and method in METHODS
        return with_objective(cls, METHODS[method]) if is_method else cls

    @classmethod
    def owner(cls, flag: str) -> str:
        """The methods that have a flag which the chosen one has not."""
        owners = [name for name, settings in METHODS.items() if flag in names_of(with_objective(cls, settings))]
        return f"; it belongs to --method {' or '.join(owners)}" if owners else ""

    @classmethod
    def complete(cls, values: dict[str, Any]) -> dict[str, Any]:
        """The objective starts from the method that a flag or the file names."""
        method = values.get("method", "persistent")
        if not isinstance(method, str) or method not in METHODS:
            raise UserError(
                f"distill: unknown method {short(method)}"
                + nearest(method if isinstance(method, str) else "", list(METHODS))
            )
        objective = values.get("objective") or {}
        if isinstance(objective, dict):
            return values | {"objective": merged(METHODS[method].model_dump(), objective), "method": method}
        return values

    def run(self) -> None:
        """Train the student, or search for its settings first, and print its accuracy."""
        from robust_student.data.readers.load import load_data, require_outside
        from robust_student.data.samples import training_and_validation
        from robust_student.models.hub import is_run
        from robust_student.models.open_model import expected_group, expected_shape
        from robust_student.models.run_directory import require_new
        from robust_student.runtime.distributed import process_group, rank, rank_zero
        from robust_student.training.outlook import outlook
        from robust_student.training.search import SearchFailed, search
        from robust_student.training.teacher import open_teacher
        from robust_student.training.train import distill, require_sense

        if is_run(Path(self.model)):
            raise UserError(f"--model {self.model}: is a run, not a network; are --teacher and --model swapped?")
        drop = self.floor.max_accuracy_drop
        if drop is None and self.tries is not None:
            raise UserError("tries: only a search tries candidates; name --max-accuracy-drop, or leave --tries out")
        with process_group(self.training.device):
            rank_zero(lambda: require_new(self.output))
            require_outside(self.output, self.data)
            shape = expected_shape([self.teacher]) if self.image_size is None else None
            group = expected_group([self.teacher]) if self.group is None else self.group
            data = load_data(self.data, shape=shape, image_size=self.image_size, group=group)
            source, validation = training_and_validation(data, self.training.validation_fraction, self.training.seed)
            opened = open_teacher(self.teacher, data, source, validation, self.teaching, trust=self.trust)
            teacher = opened.model
            settings = DistillSettings(
                training=self.training,
                objective=self.objective,
                floor=self.floor if self.tries is None else FloorSettings(),
                cache_scores=self.cache_scores,
                shard_teacher=self.shard_teacher,
            )
            require_sense(settings, data)
            if rank() == 0:
                terminal.show_outlook(outlook(opened, self.model, data, source, settings, self.method))
            if self.tries is None or drop is None:
                trained = distill(teacher, self.model, data, settings, output=self.output)
            else:
                try:
                    trained = search(
                        teacher,
                        self.model,
                        data,
                        settings,
                        max_accuracy_drop=drop,
                        tries=self.tries,
                        output=self.output,
                    )
                except SearchFailed as failure:
                    if rank() == 0:
                        terminal.show_search(failure.record)
                    raise
            if rank() == 0:
                if self.tries is not None:
                    terminal.show_search(trained.model.search or {})
                terminal.finished(trained, self.output)
