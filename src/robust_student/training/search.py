"""A short search for the radius and the weight that buy the most robustness for a given loss of accuracy."""

import math
import shutil
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import nn

from robust_student.core.errors import UserError
from robust_student.core.threat_model import ThreatModel
from robust_student.data.readers.load import Data
from robust_student.models.model import Model, as_model
from robust_student.models.probe import PROBE, difference, probe, probe_architecture
from robust_student.models.run_directory import SEARCH, TRAINING, TRIES, require_new
from robust_student.objectives.settings import ObjectiveSettings
from robust_student.runtime import distributed
from robust_student.runtime.files import read_json, write_json
from robust_student.training.settings import DistillSettings
from robust_student.training.train import Trained, distill

RADIUS_FACTORS, WEIGHT_FACTORS = (1.0, 0.5, 1.5, 2.0), (1.0, 0.4, 2.5)
"""Tried multiples of the radius and of the weight C2 that the settings name."""


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
    """Try radii R and weights C2 on validation, then train the best that keeps the clean accuracy.

    Every try, and a plain distillation to compare with, is trained for half the epochs. A try is accepted when its
    clean validation accuracy is at most `max_accuracy_drop` points (hundredths) below the plain student's; the
    accepted one of highest selection metric is trained in full. The test set is never looked at. Tries are recorded
    in `output/search.json` one by one: run again with the same arguments after an interruption, or with more tries
    after a search that found nothing, and only what is missing is trained; a try continues from its last checkpoint.

    Raises UserError where no try is accepted, and on bad input.
    """
    if max_accuracy_drop < 0:
        raise UserError(f"search: max_accuracy_drop must not be negative (got {max_accuracy_drop})")
    if tries < 1:
        raise UserError(f"search: tries must be at least 1 (got {tries})")
    base = settings.objective
    if base.secant.weight == 0 and base.gradient.weight == 0:
        raise UserError("search: the method has no gradient objective to search over; use secant or exact")
    distributed.rank_zero(lambda: _make(output))
    teacher_model = as_model(teacher, data)
    with torch.random.fork_rng():
        beginner = as_model(student, data)
        code = [beginner.code(), teacher_model.code()]
        probes = {"student": probe_architecture(beginner), "teacher": probe(teacher_model)}
    fingerprint = {
        "student": student,
        "code": code,
        "data": [data.name, *data.shape, len(data.train)],
        "teacher": teacher_model.digest(),
        "settings": settings.model_dump(mode="json"),
        "max_accuracy_drop": max_accuracy_drop,
        PROBE: probes,
    }
    path = output / SEARCH
    record: dict[str, Any] = {"fingerprint": fingerprint, "baseline": None, "tries": [], "chosen": None}
    if path.exists():
        record = read_json(path)
        different = difference(record.get("fingerprint"), fingerprint)
        if different is not None:
            raise UserError(
                f"output {output}: holds a search with other models (or code of theirs), data or settings ({different})"
            )
    record["max_accuracy_drop"] = max_accuracy_drop / 100
    short = settings.training.model_copy(update={"epochs": math.ceil(settings.training.epochs / 2)})

    def measure(objective: ObjectiveSettings, name: str) -> dict[str, float]:
        folder = output / TRIES / name
        if (folder / "model.json").exists():  # complete, but the interruption came before its record
            distributed.rank_zero(lambda: shutil.rmtree(folder))
        attempt = settings.model_copy(update={"training": short, "objective": objective})
        return distill(teacher, student, data, attempt, output=folder).validation

    def note() -> None:
        write_json(path, record)
        shutil.rmtree(output / TRIES, ignore_errors=True)

    if record["baseline"] is None:
        record["baseline"] = measure(_scaled(base, base.radius, 0.0), "plain")
        distributed.rank_zero(note)
    radius = ThreatModel.on(data, base.norm, base.radius).budget
    for r, w in _candidates()[:tries][len(record["tries"]) :]:
        candidate = _scaled(base, r * radius, w)
        accuracies = measure(candidate, str(len(record["tries"])))
        record["tries"].append(
            {
                "radius": candidate.radius,
                "weight": candidate.secant.weight or candidate.gradient.weight,
                "factor": w,
                "validation": accuracies,
                "accepted": accuracies["clean"] >= record["baseline"]["clean"] - max_accuracy_drop / 100,
            }
        )
        distributed.rank_zero(note)
    accepted = [k for k, attempt in enumerate(record["tries"]) if attempt["accepted"]]
    if not accepted:
        least = min(record["baseline"]["clean"] - attempt["validation"]["clean"] for attempt in record["tries"])
        raise UserError(
            f"search: no try stays within {max_accuracy_drop:g} points of plain distillation on validation (the best "
            f"loses {100 * least:.2f}); allow a larger drop or more tries"
        )
    record["chosen"] = max(accepted, key=lambda k: record["tries"][k]["validation"]["selection"])
    distributed.rank_zero(note)
    best = record["tries"][record["chosen"]]
    final = settings.model_copy(update={"objective": _scaled(base, best["radius"], best["factor"])})
    trained = distill(teacher, student, data, final, output=output)
    trained.model.search = record
    return trained


def _make(output: Path) -> None:
    require_new(output)
    output.mkdir(parents=True, exist_ok=True)
    if (output / TRAINING).exists() and not (output / SEARCH).exists():
        raise UserError(f"output {output}: holds an unfinished training that is not a search; choose another name")


def _candidates() -> list[tuple[float, float]]:
    """(radius factor, weight factor) pairs, the ones nearest to the settings first."""
    pairs = product(RADIUS_FACTORS, WEIGHT_FACTORS)
    return sorted(pairs, key=lambda pair: abs(math.log(pair[0])) + abs(math.log(pair[1])))


def _scaled(base: ObjectiveSettings, radius: float | None, factor: float) -> ObjectiveSettings:
    """The objective with another radius and all gradient weights times `factor`."""
    return base.model_copy(
        update={
            "radius": radius,
            "gradient": base.gradient.model_copy(update={"weight": factor * base.gradient.weight}),
            "secant": base.secant.model_copy(update={"weight": factor * base.secant.weight}),
        }
    )
