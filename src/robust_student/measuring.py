"""The commands that measure: evaluate and certify."""

import json
import tempfile
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from robust_student import terminal
from robust_student.arguments import Command, Config, Flat, Words, merged, named
from robust_student.core.errors import UserError, nearest, short
from robust_student.evaluation.settings import SUITES, CertificationSettings, EvaluationSettings
from robust_student.models.settings import IntakeSettings


class Evaluate(Command):
    """Measure models on the same test examples: noise, attacks, masking verdict, estimated radii, size, speed."""

    models: Words
    """Run directories, each as NAME=DIR or DIR; or NAME=SPEC for a network of anybody's: file.py:factory@WEIGHTS,
    timm:NAME,pretrained, hub:USER/REPO, a .pt2 program (docs/models.md; WEIGHTS: .safetensors, or a state_dict)."""
    data: str
    """digits, folder:DIR, mnist:DIR, ... (see train --help, docs/data.md); only the test split is used."""
    output: Path
    """Directory for rows.jsonl, summary.json and the rest; the same command continues an interrupted evaluation."""
    image_size: int | None = Field(None, ge=4)
    """Side in pixels to which folder images are resized; None: what the first run expects, else as in train."""
    trust: bool = False
    """Call code that a .pt2 file holds or somebody else's run names."""
    teaching: Annotated[IntakeSettings, Flat] = IntakeSettings()
    suite: Literal["quick", "default", "full"] = "default"
    """Starting point for the dials below: quick (1,000 examples, 200 attacked), default, full (AutoAttack standard on
    1,000 and the fifteen corruptions on 2,000)."""
    workers: int = Field(1, ge=1)
    """Processes that share the batches; the numbers do not depend on it. Set OMP_NUM_THREADS to cores / workers."""
    shard: str | None = None
    """INDEX/COUNT: measure only every COUNT-th batch, from INDEX on (other machines, job arrays); the same command
    without it puts all shards together."""
    evaluation: Annotated[EvaluationSettings, Flat] = EvaluationSettings()
    config: Config = None
    """YAML file with any of these settings; flags win over it."""

    @classmethod
    def complete(cls, given: dict[str, Any]) -> dict[str, Any]:
        """The dials start from the suite that a flag or the file names."""
        suite, evaluation = given.get("suite", "default"), given.get("evaluation") or {}
        if not isinstance(suite, str) or suite not in SUITES:
            raise UserError(
                f"evaluate: unknown suite {short(suite)}"
                + nearest(suite if isinstance(suite, str) else "", list(SUITES))
            )
        if isinstance(evaluation, dict):
            return given | {"evaluation": merged(SUITES[suite].model_dump(), evaluation), "suite": suite}
        return given

    def run(self) -> None:
        """Do it."""
        from robust_student.evaluation.evaluate import evaluate
        from robust_student.evaluation.row_store import Shard
        from robust_student.runtime.distributed import first, joined, rank, size, wait
        from robust_student.workers import beside

        shard = None if self.shard is None else Shard.parse(self.shard)
        if shard is not None and self.workers > 1:
            raise UserError("evaluate: --workers and --shard exclude each other")
        with joined(self.evaluation.device):
            if size() > 1:
                if shard is not None or self.workers > 1:
                    raise UserError("evaluate: under torchrun the processes are the shards; drop --shard and --workers")
                models, data = _models(self, "evaluate")
                evaluate(models, data, self.evaluation, output=self.output, shard=Shard(rank(), size()))
                wait()
                first(lambda: self._collect(models, data))
                return
        models, data = _models(self, "evaluate")
        if shard is not None:
            evaluate(models, data, self.evaluation, output=self.output, shard=shard)
            print(f"shard {self.shard} measured; the same command without --shard puts the shards together")
            return
        if self.workers > 1:
            with tempfile.TemporaryDirectory() as folder:
                config = Path(folder) / "settings.yaml"
                kept = self.model_dump(mode="json", include={"evaluation", "teaching", "image_size", "trust"})
                config.write_text(json.dumps(kept), encoding="utf-8")
                words = ["evaluate", *self.models, "--data", self.data, "--output", str(self.output)]
                words += ["--config", str(config)]
                with beside([[*words, "--shard", f"{k}/{self.workers}"] for k in range(1, self.workers)]):
                    evaluate(models, data, self.evaluation, output=self.output, shard=Shard(0, self.workers))
        self._collect(models, data)

    def _collect(self, models: dict[str, Any], data: Any) -> None:
        """Measure what no shard has measured, and put everything together."""
        from robust_student.evaluation.evaluate import evaluate

        records = evaluate(models, data, self.evaluation, output=self.output)
        terminal.show(records, self.output / "summary.json")


class Certify(Command):
    """Bound the perturbation that each example survives, from below (certified) and from above (attacks)."""

    models: Words
    """Run directories, each as NAME=DIR or DIR, or NAME=SPEC as for evaluate; bound B and agreement refer to the one
    named teacher."""
    data: str
    """digits, folder:DIR, mnist:DIR, ... (see train --help, docs/data.md); only the test split is used."""
    output: Path
    """Directory for rows.jsonl, summary.json and the rest; the same command continues an interrupted run."""
    image_size: int | None = Field(None, ge=4)
    """Side in pixels to which folder images are resized; None: what the first run expects, else as in train."""
    trust: bool = False
    """Call code that a .pt2 file holds or somebody else's run names."""
    teaching: Annotated[IntakeSettings, Flat] = IntakeSettings()
    certification: Annotated[CertificationSettings, Flat] = CertificationSettings()
    config: Config = None
    """YAML file with any of these settings; flags win over it."""

    def run(self) -> None:
        """Do it."""
        from robust_student.evaluation.certify import certify

        models, data = _models(self, "certify")
        records = certify(models, data, self.certification, output=self.output)
        terminal.show_radii(records, self.output / "summary.json")


def _models(command: Evaluate | Certify, name: str) -> tuple[dict[str, Any], Any]:
    """The models that a command names as [NAME=]SPEC, and the data."""
    from robust_student.data.readers.load import load_data, require_outside
    from robust_student.models.open_model import expected_shape, open_model

    if not command.models:
        raise UserError(f"{name}: name at least one run directory")
    specs: dict[str, str] = {}
    for text in command.models:
        label, spec = named(text)
        if not spec:
            raise UserError(f"{name}: '{text}' names no directory; write NAME=DIR")
        if label in specs:
            raise UserError(f"{name}: two models are called '{label}'; name them as NAME=DIR")
        specs[label] = spec
    require_outside(command.output, command.data)
    shape = expected_shape(list(specs.values())) if command.image_size is None else None
    data = load_data(command.data, shape=shape, image_size=command.image_size)
    if "teacher" not in specs and command.teaching != IntakeSettings():
        raise UserError(f"{name}: --teacher-... says how to read the model named teacher, and none is (teacher=SPEC)")
    settings = {"teacher": command.teaching}
    opened = {
        label: open_model(spec, data, settings.get(label), trust=command.trust, role=f"model {label}")
        for label, spec in specs.items()
    }
    return opened, data
