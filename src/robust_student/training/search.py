"""A short search for the radius and the weight that buy the most robustness for a given loss of accuracy."""

import math
import shutil
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import nn

from robust_student.core.errors import UserError
from robust_student.core.threat_model import ThreatModel
from robust_student.data.readers.load import Data
from robust_student.data.samples import training_and_validation
from robust_student.models.fingerprint import difference, fingerprint
from robust_student.models.model import Model, as_model
from robust_student.models.run_directory import SEARCH, TRAINING, TRIES, require_new
from robust_student.objectives.settings import ObjectiveSettings
from robust_student.runtime import distributed
from robust_student.runtime.files import read_json, write_json
from robust_student.training.batches import planned_epochs
from robust_student.training.settings import DistillSettings
from robust_student.training.train import Trained, distill

RADIUS_FACTORS, WEIGHT_FACTORS = (1.0, 0.5, 1.5, 2.0), (1.0, 0.4, 2.5)
"""Tried multiples of the radius and of the weights that the settings name (`ObjectiveSettings.scaled`)."""


class SearchFailed(UserError):
    """No candidate of a search stays accurate enough; `record` holds what was tried."""

    def __init__(self, message: str, record: dict[str, Any]) -> None:
        """The one line, and what `search.json` holds."""
        super().__init__(message)
        self.record = record


def search(
    teacher: Model | nn.Module,
    student: str,
    data: Data,
    settings: DistillSettings,
    *,
    max_accuracy_drop: float,
    tries: int = 8,
    output: Path,
) -> Trained:
    """Try radii R and weights of the terms against perturbations on validation; train the best that stays accurate.

    Every try, and a plain distillation to compare with, is trained for half the epochs. A try is accepted when its
    clean validation accuracy is at most `max_accuracy_drop` points (hundredths) below the plain student's; the
    accepted one of highest selection metric is trained in full. The test set is never looked at. Tries are recorded
    in `output/search.json` one by one: run again with the same arguments after an interruption, or with more tries
    after a search that found nothing, and only what is missing is trained; a try continues from its last checkpoint.

    Raises SearchFailed where no try is accepted, and UserError on bad input.
    """
    _require_sense(settings.objective, max_accuracy_drop, tries)
    distributed.rank_zero(lambda: _make(output))
    marks = _marks(teacher, student, data, settings, max_accuracy_drop)
    book = _Tries(teacher, student, data, settings, output, _record(output, marks))
    book.record["max_accuracy_drop"] = max_accuracy_drop / 100
    book.measure(tries)
    best = book.choose(max_accuracy_drop)
    objective = settings.objective.scaled(best["factor"]).model_copy(update={"radius": best["radius"]})
    final = settings.model_copy(update={"objective": objective})
    trained = distill(teacher, student, data, final, output=output)
    trained.model.search = book.record
    return trained


def _require_sense(base: ObjectiveSettings, max_accuracy_drop: float, tries: int) -> None:
    """Raise UserError where there is nothing to search."""
    if max_accuracy_drop < 0:
        raise UserError(f"search: max_accuracy_drop must not be negative (got {max_accuracy_drop})")
    if tries < 1:
        raise UserError(f"search: tries must be at least 1 (got {tries})")
    if base.strength == 0:
        raise UserError(
            "search: the method has no gradient objective, so no radius or weight to search; use secant, exact, "
            "certified, trades or adaad"
        )


def _marks(
    teacher: Model | nn.Module, student: str, data: Data, settings: DistillSettings, max_accuracy_drop: float
) -> dict[str, Any]:
    """What must be the same for a search to be continued."""
    teacher_model = as_model(teacher, data)
    with torch.random.fork_rng():
        models = {"student": as_model(student, data), "teacher": teacher_model}
    parts = {"training_set": data.train}
    marks = fingerprint(models, data, parts, settings.model_dump(mode="json"), untrained="student")
    return marks | {"max_accuracy_drop": max_accuracy_drop}


def _record(output: Path, marks: dict[str, Any]) -> dict[str, Any]:
    """What `output` holds of this search, or the beginning of it; UserError where it holds another one."""
    path = output / SEARCH
    if not path.exists():
        return {"fingerprint": marks, "baseline": None, "tries": [], "chosen": None}
    record: dict[str, Any] = read_json(path)
    different = difference(record.get("fingerprint"), marks)
    if different is not None:
        raise UserError(
            f"output {output}: holds a search with other models (or code of theirs), data or settings ({different})"
        )
    return record


@dataclass(frozen=True)
class _Tries:
    """The candidates of one search, trained one by one, and the record of them."""

    teacher: Model | nn.Module
    student: str
    data: Data
    settings: DistillSettings
    output: Path
    record: dict[str, Any]
    """What `search.json` holds."""

    def measure(self, tries: int) -> None:
        """Train plain distillation and that many candidates, without those that the record has already."""
        base = self.settings.objective
        if self.record["baseline"] is None:
            self.record["baseline"] = self._accuracies(base.scaled(0.0), "plain")
            self._write()
        least = self.record["baseline"]["clean"] - self.record["max_accuracy_drop"]
        radius = ThreatModel.on(self.data, base.norm, base.radius).budget
        for r, w in _candidates(base)[:tries][len(self.record["tries"]) :]:
            candidate = base.scaled(w).model_copy(update={"radius": r * radius})
            accuracies = self._accuracies(candidate, str(len(self.record["tries"])))
            self.record["tries"].append(
                {
                    "radius": candidate.radius,
                    "weight": candidate.strength,
                    "factor": w,
                    "validation": accuracies,
                    "accepted": accuracies["clean"] >= least,
                }
            )
            self._write()

    def choose(self, max_accuracy_drop: float) -> dict[str, Any]:
        """The accepted candidate of highest selection metric; SearchFailed where none is accepted."""
        measured = self.record["tries"]
        accepted = [k for k, attempt in enumerate(measured) if attempt["accepted"]]
        if not accepted:
            least = min(self.record["baseline"]["clean"] - attempt["validation"]["clean"] for attempt in measured)
            raise SearchFailed(
                f"search: no try stays within {max_accuracy_drop:g} points of plain distillation on validation (the "
                f"best loses {100 * least:.2f}); allow a larger drop or more tries",
                self.record,
            )
        self.record["chosen"] = max(accepted, key=lambda k: measured[k]["validation"]["selection"])
        self._write()
        best: dict[str, Any] = measured[self.record["chosen"]]
        return best

    def _accuracies(self, objective: ObjectiveSettings, name: str) -> dict[str, float]:
        """Validation accuracies of a student that is trained with this objective for half the epochs."""
        folder = self.output / TRIES / name
        if (folder / "model.json").exists():  # complete, but the interruption came before its record
            distributed.rank_zero(lambda: shutil.rmtree(folder))
        training = self.settings.training
        source, _ = training_and_validation(self.data, training.validation_fraction, training.seed)
        short = training.model_copy(update={"epochs": math.ceil(planned_epochs(len(source), training) / 2)})
        attempt = self.settings.model_copy(update={"training": short, "objective": objective})
        return distill(self.teacher, self.student, self.data, attempt, output=folder).validation

    def _write(self) -> None:
        """Save the record; the runs that it is made from are no longer needed."""
        distributed.rank_zero(self._write_alone)

    def _write_alone(self) -> None:
        write_json(self.output / SEARCH, self.record)
        shutil.rmtree(self.output / TRIES, ignore_errors=True)


def _make(output: Path) -> None:
    require_new(output)
    output.mkdir(parents=True, exist_ok=True)
    if (output / TRAINING).exists() and not (output / SEARCH).exists():
        raise UserError(f"output {output}: holds an unfinished training that is not a search; choose another name")


def _candidates(base: ObjectiveSettings) -> list[tuple[float, float]]:
    """(radius factor, weight factor) pairs, the ones nearest to the settings first; one for each different weight."""
    pairs = product(RADIUS_FACTORS, WEIGHT_FACTORS)
    nearest_first = sorted(pairs, key=lambda pair: abs(math.log(pair[0])) + abs(math.log(pair[1])))
    different: dict[tuple[float, float], tuple[float, float]] = {}
    for r, w in nearest_first:
        different.setdefault((r, base.scaled(w).strength), (r, w))
    return list(different.values())
