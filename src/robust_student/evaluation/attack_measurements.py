"""Accuracy under attacks at a budget: attacks propose, one grader forces the points into the set and judges them."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from robust_student.attacks.attack import Attack
from robust_student.attacks.table import Options, attacks_named
from robust_student.bounds.certified import Certifier
from robust_student.core.rng import example_seeds
from robust_student.core.tensors import answers
from robust_student.core.threat_model import ThreatModel
from robust_student.evaluation.measurements import Measure, MeasuredBatch, Measurement, rows_of
from robust_student.evaluation.settings import EvaluationSettings
from robust_student.evaluation.threats import Threats
from robust_student.models.model import Model
from robust_student.results.perturbation import Perturbation
from robust_student.results.rows import Row


def attack_plan(threats: Threats, classes: int, settings: EvaluationSettings, attacked: int) -> list[Measurement]:
    """PGD at its budgets, AutoAttack, and the further attacks that the settings name, at AutoAttack's budget.

    Raises UserError, before anything is measured, for an attack that does not exist or cannot serve the budget's norm.
    """
    options = Options(classes, settings.pgd_steps, "fast" if settings.autoattack == "none" else settings.autoattack)
    attempts = [("pgd", threat, attacked) for budgets in threats.pgd.values() for threat in budgets]
    if threats.whole is not None:
        attempts.append(("pgd", threats.whole, min(attacked, settings.masking.examples)))
    further = dict.fromkeys([*(["autoattack"] if settings.autoattack != "none" else []), *settings.attacks])
    attempts += [(name, threats.autoattack, attacked) for name in further]
    cells: dict[tuple[str, float | None], Measurement] = {}
    for name, threat, count in attempts:
        attacks, kind = attacks_named(name, options, threat), Perturbation.attack(name, threat.norm.name)
        run = attacked_alone(kind, threat.budget, attacks[0], threat, settings.seed)
        if len(attacks) > 1:
            run = _in_turn(kind, attacks, threat, settings.seed, spare=settings.skip_certified)
        cells.setdefault((str(kind), threat.budget), Measurement(kind, threat.budget, count, run))
    return list(cells.values())


def attacked_alone(kind: Perturbation, setting: float, attack: Attack, threat: ThreatModel, seed: int) -> Measure:
    """Rows of one attack on every example, called by this perturbation and setting."""

    def run(model: Model, batch: MeasuredBatch) -> list[Row]:
        points = attack.propose(model, batch.inputs, batch.labels, threat, example_seeds(seed, batch.indices))
        return rows_of(batch, kind, setting, grade(model, batch, points, threat).tolist())

    return run


def _in_turn(kind: Perturbation, attacks: Sequence[Attack], threat: ThreatModel, seed: int, *, spare: bool) -> Measure:
    """Rows whose detail is the attack that broke the example first, or `clean`, `certified`, `none`."""
    certifiers: dict[str, Certifier] = {}

    def run(model: Model, batch: MeasuredBatch) -> list[Row]:
        predictions = answers(model.logits(batch.inputs)).to(batch.labels.device)
        standing = predictions == batch.labels
        outcome = np.where(standing.cpu().numpy(), "none", "clean").astype(object)
        if spare:
            if batch.model not in certifiers:
                shape = tuple(batch.inputs.shape[1:])
                certifiers[batch.model] = Certifier.of(model, shape, threat, method="interval")
            certified = certifiers[batch.model].stands(batch.inputs, batch.labels).to(standing)
            outcome[(standing & certified).cpu().numpy()] = "certified"
            standing &= ~certified
        for attack in attacks:
            left = standing.nonzero()[:, 0]
            part = batch.at(left)
            points = attack.propose(model, part.inputs, part.labels, threat, example_seeds(seed, part.indices))
            graded = grade(model, part, points, threat).to(batch.labels.device)
            fooled = left[graded != part.labels]
            predictions[fooled] = graded[graded != part.labels]
            standing[fooled] = False
            outcome[fooled.cpu().numpy()] = attack.name
        rows = rows_of(batch, kind, threat.budget, predictions.tolist())
        return [replace(row, detail=name) for row, name in zip(rows, outcome, strict=True)]

    return run


def grade(model: Model, batch: MeasuredBatch, points: Tensor, threat: ThreatModel) -> Tensor:
    """Predictions at the proposed points after forcing them into the ball and the range; wrong stays wrong.

    Attacks never grade themselves. An example that is wrong without any perturbation counts as broken: its clean
    prediction is returned.
    """
    clean = answers(model.logits(batch.inputs))
    attacked = answers(model.logits(threat.project(points, batch.inputs)))
    return torch.where(clean == batch.labels.cpu(), attacked, clean)
