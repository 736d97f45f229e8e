"""What `evaluate` and `certify` share: models that are ready, their sample, measuring it, the record of the run."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robust_student.core.errors import UserError
from robust_student.data.readers.load import Data
from robust_student.evaluation.measurements import MeasuredBatch, Measurement, Sample
from robust_student.evaluation.row_store import RowStore
from robust_student.evaluation.settings import CertificationSettings, EvaluationSettings
from robust_student.models.costs import batch_macs
from robust_student.models.fingerprint import fingerprint
from robust_student.models.memory_format import channels_last
from robust_student.models.model import Model, as_model, require_fit
from robust_student.objectives.methods import is_plain
from robust_student.results.rows import SUMMARY, Key, Row
from robust_student.runtime.files import read_json, write_json
from robust_student.runtime.hardware import resolve_device
from robust_student.runtime.progress import Advance
from robust_student.runtime.threads import threads_for


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
        ready = {name: _prepared(name, model, data, device) for name, model in models.items()}
        baseline = settings.baseline if settings.baseline is not None else _plain(ready, but=settings.teacher)
        if baseline is not None and baseline not in ready:
            raise UserError(f"{command}: baseline '{baseline}' is not among the models ({', '.join(ready)})")
        return cls(ready, baseline, ready.get(settings.teacher), device)

    def marks(self, data: Data, settings: EvaluationSettings | CertificationSettings) -> dict[str, Any]:
        """What must be the same for the run to be continued."""
        return fingerprint(self.models, data, {"test": data.test}, settings.model_dump(mode="json"))

    def sample(self, data: Data, positions: Tensor) -> Sample:
        """Test examples on the device, with what the teacher says about them."""
        examples = data.test.subset(positions)
        inputs, labels = examples.floats().to(self.device), examples.labels.to(self.device)
        scores = None if self.teacher is None else self.teacher.logits(inputs).to(self.device)
        return Sample(positions, inputs, labels, scores)

    def measure(
        self,
        plans: Mapping[str, Sequence[Measurement]],
        sample: Sample,
        batch_size: int,
        store: RowStore,
        *,
        tuned: bool,
    ) -> dict[Key, dict[int, Row]]:
        """Measure every batch of every cell of every model's plan that has no rows yet; return the rows of the run.

        A shard measures its own batches only, in the same batches as a single process, and returns what it has.
        `tuned` saves time and changes rounding: the order in memory in which convolutions run fastest
        (`channels_last`), and one thread where the work is small (`threads_for`).
        """
        cells = [(name, cell) for name in self.models for cell in plans[name]]
        turns = [(cell, batch) for name, cell in cells for batch in sample.batches(name, cell.count, batch_size)]
        if store.shard is not None:
            turns = [turn for number, turn in enumerate(turns) if store.shard.has(number)]
        left = [(cell, batch) for cell, batch in turns if not store.has(cell.keys(batch.model), batch.indices)]
        shape, networks = sample.inputs.shape[1:], self.models.values()
        work = {name: batch_macs([model], shape, batch_size) for name, model in self.models.items()} if tuned else {}
        layout: AbstractContextManager[None]
        layout = channels_last(networks, sample.inputs[:1]) if tuned else nullcontext()
        total = _passes(turns)
        passed = total - _passes(left)
        with layout, Advance(total, passed) as advance:
            for cell, batch in left:
                advance.update(passed, f"{batch.model}: {cell.title}")
                with threads_for(work.get(batch.model)):
                    rows = cell.run(self.models[batch.model], batch)
                store.add(rows)
                passed += _passes([(cell, batch)])
                advance.update(passed, f"{batch.model}: {cell.title}")
        store.close()
        order = sample.positions.tolist()
        return {key: store.rows(key, order[: cell.count]) for name, cell in cells for key in cell.keys(name)}

    def write(self, output: Path, name: str, details: Mapping[str, Any], records: list[dict[str, Any]]) -> None:
        """Add `details` to the run's record of that name, then write the summary, with which the run is finished."""
        shared = {"models": {model: _described(ready) for model, ready in self.models.items()}}
        write_json(output / name, read_json(output / name) | {"baseline": self.baseline} | dict(details) | shared)
        write_json(output / SUMMARY, records)


def _plain(models: Mapping[str, Model], *, but: str) -> str | None:
    """The model named kd, else the first, `but` for the teacher, that plain distillation trained; None: neither."""
    if "kd" in models:
        return "kd"
    for name, model in models.items():
        objective = model.card.provenance.get("settings", {}).get("objective")
        if name != but and isinstance(objective, Mapping) and is_plain(objective):
            return name
    return None


def _passes(turns: Iterable[tuple[Measurement, MeasuredBatch]]) -> int:
    """About how many forward passes of an example these batches take, by which the time left is estimated."""
    return sum(cell.passes * len(batch.indices) for cell, batch in turns)


def _prepared(name: str, model: Model | nn.Module, data: Data, device: torch.device) -> Model:
    """A model ready to be measured on `data`; UserError where they do not belong together.

    Also where it needs others beside an example to answer at all, as BatchNorm without running statistics may.
    """
    if isinstance(model, Model):
        require_fit(model, data, f"model '{name}'")
    ready = as_model(model, data).to(device).eval()
    try:
        ready.logits(torch.zeros(1, *data.shape))
    except (RuntimeError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"model '{name}': fails on a single input ({reason}); it must answer each input by itself, for "
            "example with running statistics"
        ) from None
    return ready


def _described(model: Model) -> dict[str, Any]:
    """What a model's run recorded about it."""
    described: dict[str, Any] = {"card": model.card.model_dump(mode="json")}
    described |= {"history": model.history, "search": model.search}
    epoch = model.card.provenance.get("epoch")
    return described | ({} if epoch is None else {"best_epoch": epoch})
