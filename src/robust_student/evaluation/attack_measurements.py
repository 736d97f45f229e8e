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
from robust_student.evaluation.measurements import Measure, MeasuredBatch, Measurement, passes_of, rows_of
from robust_student.evaluation.settings import EvaluationSettings
from robust_student.evaluation.threats import Threats
from robust_student.models.model import Model
from robust_student.results.perturbation import Perturbation
from robust_student.results.rows import Key, Row


def attack_plan(threats: Threats, classes: int, settings: EvaluationSettings, attacked: int) -> list[Measurement]:
    """PGD at its budgets, AutoAttack, and the further attacks that the settings name, at AutoAttack's budget.

    Raises UserError, before anything is measured, for an attack that does not exist or cannot serve the budget's norm.
    """
    options = Options(classes, settings.pgd_steps, "fast" if settings.autoattack == "none" else settings.autoattack)
    few = min(attacked, settings.masking.examples)

    def alone(name: str, threat: ThreatModel, count: int) -> Measurement:
        attacks, kind = attacks_named(name, options, threat), Perturbation.attack(name, threat.norm.name)
        run = attacked_alone(kind, threat.budget, attacks[0], threat, settings.seed)
        if len(attacks) > 1:
            run = attacked_in_turn(kind, attacks, threat, settings.seed, spare=settings.skip_certified)
        return Measurement(kind, [threat.budget], count, run, passes_of(*attacks))

    plan: list[Measurement] = []
    for norm, threats_of_norm in threats.pgd.items():
        if settings.every_budget or len(threats_of_norm) < 2:
            plan += [alone("pgd", threat, attacked) for threat in threats_of_norm]
        else:
            kind, (attack,) = Perturbation.attack("pgd", norm), attacks_named("pgd", options, threats_of_norm[0])
            budgets = [threat.budget for threat in threats_of_norm]
            run = _downwards(kind, attack, threats_of_norm, settings.seed)
            plan.append(Measurement(kind, budgets, attacked, run, attack.passes))
    if threats.whole is not None:
        plan.append(alone("pgd", threats.whole, few))
    further = dict.fromkeys([*(["autoattack"] if settings.autoattack != "none" else []), *settings.attacks])
    plan += [alone(name, threats.autoattack, attacked) for name in further]
    planned: dict[Key, Measurement] = {}
    for cell in plan:
        for key in cell.keys(""):
            planned.setdefault(key, cell)
    return list(dict.fromkeys(planned.values()))


def attacked_alone(kind: Perturbation, setting: float, attack: Attack, threat: ThreatModel, seed: int) -> Measure:
    """Rows of one attack, called by this perturbation and setting; what is wrong anyway is not attacked."""

    def run(model: Model, batch: MeasuredBatch) -> list[Row]:
        predictions = answers(model.logits(batch.inputs)).to(batch.labels.device)
        right = (predictions == batch.labels).nonzero()[:, 0]
        predictions[right] = _answers_to(attack, model, batch.at(right), threat, seed)
        return rows_of(batch, kind, setting, predictions.tolist())

    return run


def _downwards(kind: Perturbation, attack: Attack, threats: Sequence[ThreatModel], seed: int) -> Measure:
    """Rows of one attack at every budget, the largest first; what holds there is taken to hold at smaller ones too.

    A failed attack proves nothing, at no budget: these accuracies are upper bounds like all others. What the attack
    breaks at a budget lies inside every larger ball. The masking checks say how far the first is wrong.
    """
    falling = sorted(threats, key=lambda threat: -threat.budget)

    def run(model: Model, batch: MeasuredBatch) -> list[Row]:
        clean = answers(model.logits(batch.inputs)).to(batch.labels.device)
        left, rows = (clean == batch.labels).nonzero()[:, 0], []
        for threat in falling:
            predictions, part = clean.clone(), batch.at(left)
            predictions[left] = _answers_to(attack, model, part, threat, seed)
            rows += rows_of(batch, kind, threat.budget, predictions.tolist())
            left = left[predictions[left] != part.labels]
        return rows

    return run


def _answers_to(attack: Attack, model: Model, batch: MeasuredBatch, threat: ThreatModel, seed: int) -> Tensor:
    """The graded predictions after an attack on every example of a batch; nothing is run on an empty one."""
    if not batch.indices:
        return batch.labels
    points = attack.propose(model, batch.inputs, batch.labels, threat, example_seeds(seed, batch.indices))
    return grade(model, batch, points, threat).to(batch.labels.device)


def attacked_in_turn(
    kind: Perturbation, attacks: Sequence[Attack], threat: ThreatModel, seed: int, *, spare: bool = False
) -> Measure:
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
            graded = _answers_to(attack, model, batch.at(left), threat, seed)
            fooled = left[graded != batch.labels[left]]
            predictions[fooled] = graded[graded != batch.labels[left]]
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
