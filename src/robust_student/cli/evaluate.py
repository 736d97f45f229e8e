"""The commands that measure: evaluate and certify."""

import json
import tempfile
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field

from robust_student.cli import terminal
from robust_student.cli.arguments import Command, Config, Flat, Words, merged
from robust_student.cli.open_models import open_models
from robust_student.core.errors import UserError, nearest, short
from robust_student.evaluation.settings import SUITES, EvaluationSettings, Suite
from robust_student.models.settings import PreprocessingSettings


class Evaluate(Command):
    """Measure models on the same test examples: noise, attacks, masking verdict, estimated radii, size, speed."""

    starting_point: ClassVar[str] = "suite"
    models: Words = ()
    """Run directories, each as NAME=DIR or DIR; or NAME=SPEC for any other network: file.py:factory@WEIGHTS,
    timm:NAME,pretrained, hub:USER/REPO, a .pt2 program (docs/models.md; WEIGHTS: .safetensors, or a state_dict)."""
    data: str
    """digits, folder:DIR, mnist:DIR, ... (see train --help, docs/data.md); only the test split is used."""
    output: Path
    """Directory for rows.jsonl, summary.json and the rest; the same command continues an interrupted evaluation."""
    image_size: int | None = Field(None, ge=4)
    """Side in pixels to which folder images are resized; None: what the first run expects, else as in train."""
    group: str | None = None
    """What no split may part, as for train: a column's name or a pattern for file names; none: nothing; None: as in
    the training of the runs."""
    trust: bool = False
    """Allow code that a .pt2 file holds, or that a run from elsewhere names, to run."""
    teaching: Annotated[PreprocessingSettings, Flat] = PreprocessingSettings()
    suite: Suite = "default"
    """Starting point for the settings below: quick (1,000 examples, 200 attacked), default, full (AutoAttack standard
    on 1,000 and the fifteen corruptions on 2,000)."""
    workers: int = Field(1, ge=1)
    """Processes that share the batches. The results do not depend on it. Set OMP_NUM_THREADS to cores / workers."""
    shard: str | None = None
    """INDEX/COUNT: measure only every COUNT-th batch, starting at INDEX, for other machines or job arrays. The same
    command without it puts all shards together."""
    evaluation: Annotated[EvaluationSettings, Flat] = EvaluationSettings()
    config: Config = None
    """YAML file with any of these settings; flags win over it."""

    @classmethod
    def complete(cls, values: dict[str, Any]) -> dict[str, Any]:
        """The settings start from the suite that a flag or the file names."""
        suite, evaluation = values.get("suite", "default"), values.get("evaluation") or {}
        if suite not in list(SUITES):  # it may be anything, as a YAML file says
            raise UserError(
                f"evaluate: unknown suite {short(suite)}"
                + nearest(suite if isinstance(suite, str) else "", list(SUITES))
            )
        if isinstance(evaluation, dict):
            return values | {"evaluation": merged(SUITES[suite].model_dump(), evaluation), "suite": suite}
        return values

    def run(self) -> None:
        """Measure the models, or one shard of the batches, and print the table."""
        from robust_student.evaluation.evaluate import evaluate
        from robust_student.evaluation.row_store import Shard
        from robust_student.evaluation.workers import beside
        from robust_student.runtime.distributed import barrier, process_group, rank, rank_zero, size

        shard = None if self.shard is None else Shard.parse(self.shard)
        if shard is not None and self.workers > 1:
            raise UserError("evaluate: --workers and --shard exclude each other")
        with process_group(self.evaluation.device):
            if size() > 1:
                if shard is not None or self.workers > 1:
                    raise UserError("evaluate: under torchrun the processes are the shards; drop --shard and --workers")
                models, data = self._open()
                evaluate(models, data, self.evaluation, output=self.output, shard=Shard(rank(), size()))
                barrier()
                rank_zero(lambda: self._collect(models, data))
                return
        models, data = self._open()
        if shard is not None:
            evaluate(models, data, self.evaluation, output=self.output, shard=shard)
            print(f"shard {self.shard} measured; when all are, the same command without --shard puts them together")
            return
        if self.workers > 1:
            with tempfile.TemporaryDirectory() as folder:
                config = Path(folder) / "settings.yaml"
                settings = self.model_dump(
                    mode="json", include={"evaluation", "teaching", "image_size", "group", "trust"}
                )
                config.write_text(json.dumps(settings), encoding="utf-8")
                words = [
                    "-m",
                    "robust_student",
                    "evaluate",
                    *self.models,
                    "--data",
                    self.data,
                    "--output",
                    str(self.output),
                ]
                words += ["--config", str(config)]
                with beside([[*words, "--shard", f"{k}/{self.workers}"] for k in range(1, self.workers)]):
                    evaluate(models, data, self.evaluation, output=self.output, shard=Shard(0, self.workers))
        self._collect(models, data)

    def _collect(self, models: dict[str, Any], data: Any) -> None:
        """Measure what no shard has measured, and put everything together."""
        from robust_student.evaluation.evaluate import evaluate

        evaluation = evaluate(models, data, self.evaluation, output=self.output)
        terminal.show(evaluation, self.output / "summary.json")

    def _open(self) -> tuple[dict[str, Any], Any]:
        """The models and the data."""
        return open_models(
            "evaluate",
            self.models,
            self.data,
            self.output,
            image_size=self.image_size,
            group=self.group,
            teaching=self.teaching,
            trust=self.trust,
        )
