"""What the commands that measure, `evaluate` and `certify`, have in common: models, data, and processes that share."""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field

from robust_student.cli.arguments import Command, Flat, Words
from robust_student.cli.open_models import open_models
from robust_student.core.errors import UserError
from robust_student.models.settings import PreprocessingSettings


class Measure(Command):
    """Measure models on the same test examples."""

    name: ClassVar[str]
    """Of the command."""
    settings_field: ClassVar[str]
    """The field that holds the settings of what is measured."""

    models: Words = ()
    """Run directories, each as NAME=DIR or DIR; or NAME=SPEC for any other network: file.py:factory@WEIGHTS,
    timm:NAME,pretrained, hub:USER/REPO, a .pt2 program (docs/models.md; WEIGHTS: .safetensors, or a state_dict)."""
    data: str
    """digits, folder:DIR, mnist:DIR, ... (see train --help, docs/data.md); only the test split is used."""
    output: Path
    """Directory for rows.jsonl, summary.json and the rest; the same command continues an interrupted run."""
    image_size: int | None = Field(None, ge=4)
    """Side in pixels to which folder images are resized; None: what the first run expects, else as in train."""
    group: str | None = None
    """What no split may part, as for train: a column's name or a pattern for file names; none: nothing; None: as in
    the training of the runs."""
    trust: bool = False
    """Allow code that a .pt2 file holds, or that a run from elsewhere names, to run."""
    teaching: Annotated[PreprocessingSettings, Flat] = PreprocessingSettings()
    workers: int = Field(1, ge=1)
    """Processes that share the batches. The results do not depend on it. Set OMP_NUM_THREADS to cores / workers."""
    shard: str | None = None
    """INDEX/COUNT: measure only every COUNT-th batch, starting at INDEX, for other machines or job arrays. The same
    command without it puts all shards together."""

    @property
    def function(self) -> Callable[..., Any]:
        """`evaluate` or `certify` of the Python interface."""
        raise NotImplementedError

    def show(self, result: Any) -> None:
        """Print the table."""
        raise NotImplementedError

    def run(self) -> None:
        """Measure the models, or one shard of the batches, and print the table."""
        from robust_student.evaluation.row_store import Shard
        from robust_student.evaluation.workers import beside
        from robust_student.runtime.distributed import barrier, process_group, rank, rank_zero, size

        shard = None if self.shard is None else Shard.parse(self.shard)
        if shard is not None and self.workers > 1:
            raise UserError(f"{self.name}: --workers and --shard exclude each other")
        with process_group(self._settings.device):
            if size() > 1:
                if shard is not None or self.workers > 1:
                    raise UserError(
                        f"{self.name}: under torchrun the processes are the shards; drop --shard and --workers"
                    )
                models, data = self._open()
                self._measure(models, data, Shard(rank(), size()))
                barrier()
                rank_zero(lambda: self.show(self._measure(models, data)))
                return
        models, data = self._open()
        if shard is not None:
            self._measure(models, data, shard)
            print(f"shard {self.shard} measured; when all are, the same command without --shard puts them together")
            return
        if self.workers > 1:
            with tempfile.TemporaryDirectory() as folder:
                config = Path(folder) / "settings.yaml"
                fields = self.model_dump(
                    mode="json", include={self.settings_field, "teaching", "image_size", "group", "trust"}
                )
                config.write_text(json.dumps(fields), encoding="utf-8")
                words = ["-m", "robust_student", self.name, *self.models, "--data", self.data]
                words += ["--output", str(self.output), "--config", str(config)]
                with beside([[*words, "--shard", f"{k}/{self.workers}"] for k in range(1, self.workers)]):
                    self._measure(models, data, Shard(0, self.workers))
        self.show(self._measure(models, data))

    @property
    def _settings(self) -> Any:
        """Of what is measured."""
        return getattr(self, self.settings_field)

    def _measure(self, models: dict[str, Any], data: Any, shard: Any = None) -> Any:
        """Measure a shard; without one what no shard has measured, and put everything together."""
        return self.function(models, data, self._settings, output=self.output, shard=shard)

    def _open(self) -> tuple[dict[str, Any], Any]:
        """The models and the data."""
        return open_models(
            self.name,
            self.models,
            self.data,
            self.output,
            image_size=self.image_size,
            group=self.group,
            teaching=self.teaching,
            trust=self.trust,
        )
