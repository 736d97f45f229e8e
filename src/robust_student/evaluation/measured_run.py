"""The set-up that `evaluate` and `certify` share: models that are ready, their sample, the record of the run."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robust_student.core.errors import UserError
from robust_student.data.readers.load import Data
from robust_student.evaluation.fingerprint import describe, prepare
from robust_student.evaluation.row_store import Sample
from robust_student.evaluation.settings import CertificationSettings, EvaluationSettings
from robust_student.models.model import Model
from robust_student.results.rows import SUMMARY
from robust_student.runtime.files import read_json, write_json
from robust_student.runtime.hardware import resolve_device


@dataclass(frozen=True, eq=False)
class Run:
    """What is measured."""

    models: dict[str, Model]
    """Ready to be measured."""
    baseline: str | None
    """The model that the others are compared with."""
    teacher: Model | None
    """The one of them that bound B refers to."""
    device: torch.device

    @classmethod
    def begin(
        cls,
        command: str,
        models: Mapping[str, Model | nn.Module],
        data: Data,
        settings: EvaluationSettings | CertificationSettings,
    ) -> "Run":
        """UserError where there are no models, one does not fit the data, or the baseline is none of them."""
        if not models:
            raise UserError(f"{command}: no models given")
        device = resolve_device(settings.device)
        ready = {name: prepare(name, model, data, device) for name, model in models.items()}
        baseline = settings.baseline if settings.baseline is not None else ("kd" if "kd" in ready else None)
        if baseline is not None and baseline not in ready:
            raise UserError(f"{command}: baseline '{baseline}' is not among the models ({', '.join(ready)})")
        return cls(ready, baseline, ready.get(settings.teacher), device)

    def sample(self, data: Data, positions: Tensor) -> Sample:
        """Test examples on the device, with what the teacher says about them."""
        examples = data.test.subset(positions)
        inputs, labels = examples.floats().to(self.device), examples.labels.to(self.device)
        scores = None if self.teacher is None else self.teacher.logits(inputs).to(self.device)
        return Sample(positions, inputs, labels, scores)

    def write(self, output: Path, name: str, details: Mapping[str, Any], records: list[dict[str, Any]]) -> None:
        """Add `details` to the run's record of that name, then write the summary, with which the run is finished."""
        shared = {"models": {model: describe(ready) for model, ready in self.models.items()}}
        write_json(output / name, read_json(output / name) | {"baseline": self.baseline} | dict(details) | shared)
        write_json(output / SUMMARY, records)
