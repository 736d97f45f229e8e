"""What an evaluation measures: one cell per perturbation and setting, graded by one function."""

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robust_student.attacks.autoattack import AutoAttack
from robust_student.attacks.pgd import pgd
from robust_student.bounds.certified import Certifier
from robust_student.bounds.estimated import estimated_confidence_radius, estimated_decision_radius
from robust_student.core.errors import UserError
from robust_student.core.norms import Norm, NormName
from robust_student.core.rng import example_seeds, normal_per_example, uniform_per_example
from robust_student.core.tensors import answers
from robust_student.core.threat_model import ThreatModel
from robust_student.corruptions.snr_noise import gaussian_at_snr, impulse_at_snr, uniform_at_snr
from robust_student.data.readers.load import Data
from robust_student.evaluation.settings import EvaluationSettings
from robust_student.models.model import Model
from robust_student.results.rows import Row

RELATIVE_BUDGETS = (0.25, 0.5, 1.0, 1.5, 2.0)
"""PGD budgets in units of the norm's default radius, where the user gives none."""


@dataclass(frozen=True)
class Measurement:
    """One cell of the plan: a perturbation at a setting, on the first `count` examples of the sample."""

    perturbation: str
    setting: float | None
    count: int
    run: Callable[[Model, "Batch"], list[Row]]


@dataclass(frozen=True, eq=False)
class Batch:
    """A part of the sample on the device, with what a measurement needs to know about it."""

    model: str
    indices: list[int]
    inputs: Tensor
    labels: Tensor
    teacher_logits: Tensor | None


def plan(data: Data, settings: EvaluationSettings, total: int, attacked: int, teacher: bool) -> list[Measurement]:
    """Every measurement to make on every model, cheapest first."""
    cells = [Measurement("none", None, total, _clean)]
    cells += [
        Measurement(f"{name}_snr_db", snr_db, total, _noise(name, data, settings, snr_db))
        for name in dict.fromkeys(settings.noises)
        for snr_db in settings.snr_db
    ]
    budgets: dict[NormName, list[ThreatModel]] = {
        "linf": _budgets(settings.pgd_linf, "linf", data),
        "l2": _budgets(settings.pgd_l2, "l2", data),
    }
    for name in budgets:
        norm = ThreatModel.on(data, name).norm
        radius_a = _radius_rows(f"estimated_decision_radius_{name}", norm, confidence=False)
        cells.append(Measurement(f"estimated_decision_radius_{name}", None, attacked, radius_a))
        if teacher:
            radius_b = _radius_rows(f"estimated_confidence_radius_{name}", norm, confidence=True)
            cells.append(Measurement(f"estimated_confidence_radius_{name}", None, attacked, radius_b))
    for name, threats in budgets.items():
        cells += [Measurement(f"pgd_{name}", t.budget, attacked, _pgd(settings, t)) for t in threats]
    if data.input_range.bounded:
        whole = ThreatModel.named("linf", data.input_range.width, data.input_range, data.shape)
        if whole.budget not in [threat.budget for threat in budgets["linf"]]:
            count = min(attacked, settings.masking.examples)
            cells.append(Measurement("pgd_linf", whole.budget, count, _pgd(settings, whole)))
    if settings.autoattack != "none":
        suite = autoattack_suite(data, settings)
        kind, budget = f"autoattack_{suite.threat.norm.name}", suite.threat.budget
        cells.append(Measurement(kind, budget, attacked, _autoattack(data, settings, suite)))
    return cells


def _budgets(given: tuple[float, ...] | None, name: NormName, data: Data) -> list[ThreatModel]:
    threat = ThreatModel.on(data, name)
    if given is not None:
        return [threat.at(radius) for radius in dict.fromkeys(given)]
    return [threat.at(float(f"{factor * threat.budget:.4g}")) for factor in RELATIVE_BUDGETS]


def autoattack_suite(data: Data, settings: EvaluationSettings) -> AutoAttack:
    """AutoAttack as the settings ask for it, with the norm's default radius where they name none.

    Where they ask for none its norm and budget still serve the masking checks.
    """
    threat = ThreatModel.on(data, settings.autoattack_norm, settings.autoattack_radius)
    if settings.autoattack_radius is None:
        threat = threat.at(float(f"{threat.budget:.4g}"))
    return AutoAttack("fast" if settings.autoattack == "none" else settings.autoattack, threat)


def require_possible(option: str, threats: Iterable[ThreatModel], data: Data) -> None:
    """Raise UserError where a radius exceeds the largest change that the inputs' range allows: other units, say."""
    lower, upper = data.input_range
    for threat in threats:
        whole = threat.widest(data.shape)
        if threat.budget > whole * (1 + 1e-6):
            raise UserError(
                f"{option}: {threat.budget:g} is more than any change inside the inputs' range [{lower:g}, {upper:g}] "
                f"({threat.norm.name}, at most {whole:g}); radii are in units of the inputs, where 8 of 255 grey "
                "levels are 0.0314"
            )


def require_possible_budgets(data: Data, settings: EvaluationSettings) -> None:
    """Raise UserError where an attack of an evaluation has a budget that the inputs' range does not allow."""
    require_possible("pgd_linf", _budgets(settings.pgd_linf or (), "linf", data), data)
    require_possible("pgd_l2", _budgets(settings.pgd_l2 or (), "l2", data), data)
    require_possible("autoattack_radius", [autoattack_suite(data, settings).threat], data)


def _clean(model: Model, batch: Batch) -> list[Row]:
    return _scored(batch, "none", None, model.logits(batch.inputs))


NOISES = {
    "gaussian": (gaussian_at_snr, normal_per_example),
    "uniform": (uniform_at_snr, uniform_per_example),
    "impulse": (impulse_at_snr, uniform_per_example),
}
"""Kind of noise -> how it is added, and the draws it is made from."""


def _noise(name: str, data: Data, settings: EvaluationSettings, snr_db: float) -> Callable[[Model, Batch], list[Row]]:
    add, draw = NOISES[name]

    def run(model: Model, batch: Batch) -> list[Row]:
        draws = draw(data.shape, example_seeds(settings.seed, batch.indices)).to(batch.inputs)
        noisy, realised = add(batch.inputs, snr_db, data.input_range, draws)
        rows = _scored(batch, f"{name}_snr_db", snr_db, model.logits(noisy))

        def measured(snr: float) -> dict[str, Any]:
            if math.isnan(snr):
                return {"correct": None, "confidence": None, "nll": None, "brier": None}
            return {"value": round(snr, 4)} if math.isfinite(snr) else {"detail": "infinite"}

        return [Row(**asdict(row) | measured(snr)) for row, snr in zip(rows, realised.tolist(), strict=True)]

    return run


def _pgd(settings: EvaluationSettings, threat: ThreatModel) -> Callable[[Model, Batch], list[Row]]:
    def run(model: Model, batch: Batch) -> list[Row]:
        start = threat.random_each(batch.inputs, example_seeds(settings.seed, batch.indices))
        points = pgd(model, batch.inputs, batch.labels, threat, steps=settings.pgd_steps, start=start)
        predictions = grade(model, batch, points, threat)
        return rows_of(batch, f"pgd_{threat.norm.name}", threat.budget, predictions.tolist())

    return run


def _autoattack(data: Data, settings: EvaluationSettings, suite: AutoAttack) -> Callable[[Model, Batch], list[Row]]:
    """Rows whose detail is the attack that broke the example first, or `clean`, `certified`, `none`."""
    certifiers: dict[str, Certifier] = {}

    def run(model: Model, batch: Batch) -> list[Row]:
        predictions = answers(model.logits(batch.inputs)).to(batch.labels.device)
        standing = predictions == batch.labels
        outcome = np.where(standing.cpu().numpy(), "none", "clean").astype(object)
        if settings.skip_certified:
            if batch.model not in certifiers:
                certifiers[batch.model] = Certifier.of(model, data.shape, suite.threat, method="interval")
            certified = certifiers[batch.model].stands(batch.inputs, batch.labels).to(standing)
            outcome[(standing & certified).cpu().numpy()] = "certified"
            standing &= ~certified
        for attack in suite.attacks(len(data.classes)):
            left = standing.nonzero()[:, 0]
            part = Batch(
                batch.model, [batch.indices[i] for i in left.tolist()], batch.inputs[left], batch.labels[left], None
            )
            seeds = example_seeds(settings.seed, part.indices)
            points = suite.run(attack, model, part.inputs, part.labels, seeds)
            found = grade(model, part, points, suite.threat).to(batch.labels.device)
            fooled = left[found != part.labels]
            predictions[fooled] = found[found != part.labels]
            standing[fooled] = False
            outcome[fooled.cpu().numpy()] = attack
        rows = rows_of(batch, f"autoattack_{suite.threat.norm.name}", suite.threat.budget, predictions.tolist())
        return [Row(**asdict(row) | {"detail": name}) for row, name in zip(rows, outcome, strict=True)]

    return run


def _radius_rows(measure: str, norm: Norm, *, confidence: bool) -> Callable[[Model, Batch], list[Row]]:
    def run(model: Model, batch: Batch) -> list[Row]:
        inputs = batch.inputs.clone().requires_grad_()
        logits = model(inputs)
        if confidence:
            assert batch.teacher_logits is not None
            radii = estimated_confidence_radius(logits, inputs, batch.labels, batch.teacher_logits, norm)
        else:
            radii = estimated_decision_radius(logits, inputs, batch.labels, norm)
        rows = rows_of(batch, measure, None, answers(logits).tolist())
        return [Row(**asdict(row) | radius_fields(radius)) for row, radius in zip(rows, radii.tolist(), strict=True)]

    return run


def radius_fields(radius: float, detail: str | None = None) -> dict[str, Any]:
    """`value` and `detail` of the row of a radius; where it is NaN nothing is bounded, which is a radius of 0."""
    if math.isnan(radius):
        return {"value": 0.0, "detail": "nan"}
    return {"value": radius, "detail": detail} if math.isfinite(radius) else {"detail": "infinite"}


def grade(model: Model, batch: Batch, points: Tensor, threat: ThreatModel) -> Tensor:
    """Predictions at the proposed points after forcing them into the ball and the range; wrong stays wrong.

    Attacks never grade themselves. An example that is wrong without any perturbation counts as broken: its clean
    prediction is returned.
    """
    clean = answers(model.logits(batch.inputs))
    found = answers(model.logits(threat.project(points, batch.inputs)))
    return torch.where(clean == batch.labels.cpu(), found, clean)


def rows_of(batch: Batch, perturbation: str, setting: float | None, predictions: list[int]) -> list[Row]:
    """One row per example of the batch, right where the prediction is the label."""
    return [
        Row(batch.model, perturbation, setting, index, label, prediction, prediction == label)
        for index, label, prediction in zip(batch.indices, batch.labels.tolist(), predictions, strict=True)
    ]


def _scored(batch: Batch, perturbation: str, setting: float | None, logits: Tensor) -> list[Row]:
    """Rows with what calibration needs: confidence, -log p_y and sum_k (p_k - [k = y])^2; None where not finite."""
    labels, log_p = batch.labels.cpu(), logits.double().log_softmax(dim=1)
    truth = torch.nn.functional.one_hot(labels, logits.shape[1])
    nll = -log_p.gather(1, labels[:, None])[:, 0]
    brier = (log_p.exp() - truth).square().sum(dim=1)
    rows = rows_of(batch, perturbation, setting, answers(logits).tolist())
    scores = zip(log_p.exp().amax(dim=1).tolist(), nll.tolist(), brier.tolist(), strict=True)
    return [
        replace(row, confidence=_rounded(confidence), nll=_rounded(loss), brier=_rounded(distance))
        for row, (confidence, loss, distance) in zip(rows, scores, strict=True)
    ]


def _rounded(value: float) -> float | None:
    """Six digits: the rest depends on the batching."""
    return float(f"{value:.6g}") if math.isfinite(value) else None
