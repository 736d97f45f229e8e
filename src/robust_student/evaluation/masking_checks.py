"""The measurements behind the masking verdict: cells of an evaluation, and the shares computed from their rows."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import torch
from torch import Tensor, nn

from robust_student.attacks.ascent import ascend
from robust_student.attacks.attack import Attack
from robust_student.attacks.pgd import Loss, descend
from robust_student.core.errors import UserError
from robust_student.core.margins import input_gradient, margin, true_score
from robust_student.core.rng import example_seeds
from robust_student.core.tensors import Inputs, Labels, Logits, PerExample, Shape, answers
from robust_student.core.threat_model import ThreatModel
from robust_student.evaluation.attack_measurements import attacked_alone, grade
from robust_student.evaluation.measurements import Measure, MeasuredBatch, Measurement, rows_of
from robust_student.evaluation.settings import EvaluationSettings
from robust_student.evaluation.threats import Threats
from robust_student.models.model import Model
from robust_student.results.class_measures import Confusion
from robust_student.results.collapse import collapse_figures
from robust_student.results.masking import CheckName, Verdict, judge
from robust_student.results.perturbation import CLEAN, Perturbation
from robust_student.results.rows import Row

GRADIENT, REPETITION, OUTPUTS, ALONE, STEPS, CROSS_ENTROPY, RESCALED, TRANSFER = (
    Perturbation("masking", name)
    for name in ("gradient", "repetition", "outputs", "alone", "steps", "cross_entropy", "rescaled", "transfer")
)
"""Their rows count for the verdict and are no result of their own."""
_SAME = 1e-4
"""Logits of two passes are the same where they differ by at most this share of the largest one."""
_ROUNDED = 0.02
"""The same of passes in batches of other sizes, for which kernels round otherwise: bfloat16 keeps 8 bits."""

_Rows = Mapping[int, Row]
"""The rows of one model, perturbation and setting by example."""


def masking_plans(
    models: Mapping[str, Model], threat: ThreatModel, settings: EvaluationSettings, attacked: int
) -> dict[str, list[Measurement]]:
    """What to measure on each model for its verdict, on the first of the attacked examples, cheapest first.

    The attacks have AutoAttack's threat model, whether it is run or not. Raises UserError where a surrogate
    is not among the models.
    """
    masking = settings.masking
    surrogates = tuple(models) if masking.surrogates is None else masking.surrogates
    unknown = [name for name in surrogates if name not in models]
    if unknown:
        raise UserError(f"evaluate: surrogate '{unknown[0]}' is not among the models ({', '.join(models)})")
    ladder = [float(steps) for steps in sorted(set(masking.steps))]
    cells: list[tuple[Perturbation, float | None, Measure]] = [
        (GRADIENT, None, _gradient),
        (REPETITION, None, _repetition),
        (ALONE, None, _alone_or_not),
        (OUTPUTS, None, _outputs),
    ]
    attacks: list[tuple[Perturbation, Loss, float]] = [(STEPS, margin, steps) for steps in ladder]
    attacks += [(CROSS_ENTROPY, _log_probability, ladder[-1]), (RESCALED, _rescaled, ladder[-1])]
    for kind, loss, steps in attacks:
        attack = _PgdOn(loss, int(steps))
        cells.append((kind, steps, attacked_alone(kind, steps, attack, threat, settings.seed)))
    transfer = _transfer({name: models[name] for name in surrogates}, threat, settings.seed, ladder[-1])
    count = min(attacked, masking.examples)
    plans = {name: [Measurement(kind, setting, count, run) for kind, setting, run in cells] for name in models}
    for name, plan in plans.items():
        if any(other != name for other in surrogates):
            plan.append(Measurement(TRANSFER, ladder[-1], count, transfer))
    return plans


def masking_verdict(
    rows: Mapping[tuple[str, float | None], _Rows], threats: Threats, settings: EvaluationSettings
) -> Verdict:
    """The verdict on one model from its rows by perturbation and setting."""
    groups = {(Perturbation.parse(kind), setting): cell for (kind, setting), cell in rows.items()}
    steps = sorted(set(settings.masking.steps))
    ladder = [groups[STEPS, float(number)] for number in steps]
    cross_entropy, rescaled = groups[CROSS_ENTROPY, float(steps[-1])], groups[RESCALED, float(steps[-1])]
    white = [*ladder, cross_entropy, rescaled]
    figures: dict[CheckName, float] = {
        "zero_gradients": _share(groups[GRADIENT, None], "zero"),
        "nan_gradients": _share(groups[GRADIENT, None], "nan"),
        "random_outputs": _share(groups[REPETITION, None], "different"),
        "probability_outputs": _share(groups[OUTPUTS, None], "probabilities"),
        "margin_only": _alone(ladder[-1], [cross_entropy]),
        "rescaled_only": _alone(rescaled, [cross_entropy]),
    }
    not_run: dict[CheckName, str] = {}

    collapsed = collapse_figures(Confusion.of(groups[CLEAN, None]))
    figures |= collapsed
    if not collapsed:
        not_run["one_answer"] = not_run["chance_level"] = "the examples are of one class"

    if figures["random_outputs"] == 0:
        figures["batch_outputs"] = _share(groups[ALONE, None], "different")
    else:
        not_run["batch_outputs"] = "the outputs are random, whatever the batch"

    pgd = {norm: Perturbation.attack("pgd", norm) for norm in threats.pgd}
    unlimited = None if threats.whole is None else groups.get((pgd["linf"], threats.whole.budget))
    if unlimited is not None:
        figures["unbounded_accuracy"] = _accuracy(unlimited)
    else:
        not_run["unbounded_accuracy"] = "the inputs have no range, so no budget covers all of them"

    budgets = [_by_budget(groups, kind) for kind in pgd.values()]
    if any(len(cells) > 1 for cells in budgets):
        figures["budget_rise"] = max(_rise(cells) for cells in budgets if len(cells) > 1)
    else:
        not_run["budget_rise"] = "PGD ran at one budget at most"

    if len(steps) > 1:
        figures["step_rise"] = _rise(ladder)
    else:
        not_run["step_rise"] = "masking.steps has one entry only"
    if len(steps) > 1 and steps[0] == 1:
        figures["one_step_lead"] = _rise([ladder[0], ladder[-1]])
    else:
        not_run["one_step_lead"] = "masking.steps does not go from 1 to a larger number"

    attacked = groups.get((Perturbation.attack("autoattack", threats.autoattack.norm.name), threats.autoattack.budget))
    if attacked is not None:
        figures["square_only"] = _share(attacked, "square")
        figures["autoattack_only"] = _alone(attacked, [ladder[-1]])
        white.append({i: replace(row, correct=True) if row.detail == "square" else row for i, row in attacked.items()})
    else:
        not_run["square_only"] = not_run["autoattack_only"] = "AutoAttack was not run"

    transferred = groups.get((TRANSFER, float(steps[-1])))
    if transferred is not None:
        figures["transfer_only"] = _alone(transferred, white)
    else:
        not_run["transfer_only"] = "no other model was evaluated that an attack could be made on"
    return judge(figures, not_run)


def _gradient(model: Model, batch: MeasuredBatch) -> list[Row]:
    points = batch.inputs.clone().requires_grad_()
    logits = model(points)
    sizes = input_gradient(margin(logits, batch.labels), points).flatten(1).abs().sum(dim=1)
    details = ["zero" if size == 0 else None if size < torch.inf else "nan" for size in sizes.tolist()]
    return _with_details(rows_of(batch, GRADIENT, None, answers(logits).tolist()), details)


def _repetition(model: Model, batch: MeasuredBatch) -> list[Row]:
    first, second = model.logits(batch.inputs), model.logits(batch.inputs)
    return _with_details(rows_of(batch, REPETITION, None, answers(first).tolist()), _apart(first, second, _SAME))


def _alone_or_not(model: Model, batch: MeasuredBatch) -> list[Row]:
    """Every example by itself and beside the others; beside zeros, where there are none."""
    others = batch.inputs if len(batch.inputs) > 1 else torch.cat([batch.inputs, torch.zeros_like(batch.inputs)])
    in_batch = model.logits(others)[: len(batch.inputs)]
    alone = model.logits(batch.inputs, batch=1)
    return _with_details(rows_of(batch, ALONE, None, answers(alone).tolist()), _apart(in_batch, alone, _ROUNDED))


def _apart(first: Tensor, second: Tensor, share: float) -> list[str | None]:
    """`different` for each example whose logits differ by more than a share of the largest one."""
    nothing = first.isnan() & second.isnan()
    difference = (first - second).abs().masked_fill(nothing, 0.0).nan_to_num(nan=torch.inf).amax(dim=1)
    apart = difference > share * first.nan_to_num().abs().amax(dim=1)
    return ["different" if differ else None for differ in apart.tolist()]


def _outputs(model: Model, batch: MeasuredBatch) -> list[Row]:
    logits = model.logits(batch.inputs)
    sums_to_one = (logits.sum(dim=1) - 1).abs() < _SAME
    inside = (logits >= 0).all(dim=1) & (logits <= 1 + _SAME).all(dim=1)
    details = ["probabilities" if is_probability else None for is_probability in (sums_to_one & inside).tolist()]
    return _with_details(rows_of(batch, OUTPUTS, None, answers(logits).tolist()), details)


@dataclass(frozen=True)
class _PgdOn(Attack):
    """PGD that lowers one loss; one step starts at the input itself and is as long as the budget (FGSM)."""

    loss: Loss
    steps: int

    @property
    def name(self) -> str:
        return "pgd"

    def propose(
        self, network: nn.Module, inputs: Inputs, labels: Labels, threat: ThreatModel, seeds: Sequence[int]
    ) -> Inputs:
        single = self.steps == 1
        return descend(
            network,
            lambda logits, positions: self.loss(logits, labels[positions]),
            inputs,
            threat,
            steps=self.steps,
            start=inputs if single else threat.random_each(inputs, seeds),
            relative_step=1.0 if single else None,
        )


def _transfer(surrogates: Mapping[str, Model], threat: ThreatModel, seed: int, steps: float) -> Measure:
    """Points that lower the margin of each surrogate as far as the steps allow, shown to the other models."""
    points_by_batch: dict[tuple[str, Shape], Tensor] = {}

    def points_of(name: str, batch: MeasuredBatch) -> Tensor:
        key = (name, tuple(batch.indices))
        if key not in points_by_batch:
            points_by_batch[key] = ascend(
                surrogates[name],
                lambda _, logits: -margin(logits, batch.labels),
                batch.inputs,
                threat.random_each(batch.inputs, example_seeds(seed, batch.indices)),
                threat,
                steps=int(steps),
                step_size=2.5 / steps * threat.budget,
            )
        return points_by_batch[key]

    def run(model: Model, batch: MeasuredBatch) -> list[Row]:
        predictions = answers(model.logits(batch.inputs))
        broken_by: list[str | None] = [None] * len(batch.indices)
        for name in surrogates:
            if name != batch.model:
                points = points_of(name, batch)
                graded = grade(model, batch, points, threat)
                labels = batch.labels.to(graded.device)
                standing = predictions == labels
                fooled = standing & (graded != labels)
                predictions = torch.where(standing, graded, predictions)
                for i in fooled.nonzero()[:, 0].tolist():
                    broken_by[i] = name
        return _with_details(rows_of(batch, TRANSFER, steps, predictions.tolist()), broken_by)

    return run


def _log_probability(logits: Logits, labels: Labels) -> PerExample:
    """log(K P_y), positive as long as the true class has more than 1 / K: lowering it raises the cross-entropy."""
    return true_score(logits.log_softmax(dim=1), labels) + math.log(logits.shape[1])


def _rescaled(logits: Logits, labels: Labels) -> PerExample:
    """The same of logits divided by their standard deviation, at which no softmax is saturated."""
    spread = logits.detach().std(dim=1, keepdim=True)
    return _log_probability(logits / spread.clamp_min(torch.finfo(spread.dtype).tiny), labels)


def _with_details(rows: Sequence[Row], details: Sequence[str | None]) -> list[Row]:
    return [replace(row, detail=detail) for row, detail in zip(rows, details, strict=True)]


def _by_budget(groups: Mapping[tuple[Perturbation, float | None], _Rows], kind: Perturbation) -> list[_Rows]:
    """The cells of a perturbation by growing budget."""
    cells = [(setting, rows) for (name, setting), rows in groups.items() if name == kind and setting is not None]
    return [rows for _, rows in sorted(cells, key=lambda pair: pair[0])]


def _share(rows: _Rows, detail: str) -> float:
    """Share of the examples whose row has this detail."""
    return sum(row.detail == detail for row in rows.values()) / len(rows)


def _accuracy(rows: _Rows) -> float:
    return sum(bool(row.correct) for row in rows.values()) / len(rows)


def _alone(attack: _Rows, others: Iterable[_Rows]) -> float:
    """Share of the examples that all attacks saw which fell to the first and to none of the others."""
    rivals = list(others)
    shared = [i for i in attack if all(i in rows for rows in rivals)]
    return sum(not attack[i].correct and all(rows[i].correct for rows in rivals) for i in shared) / len(shared)


def _rise(growing: Sequence[_Rows]) -> float:
    """The most accuracy that a later cell has over an earlier one, on the examples that all cells saw; at least 0."""
    shared = [i for i in growing[0] if all(i in rows for rows in growing)]
    right = [sum(bool(rows[i].correct) for i in shared) for rows in growing]
    lowest = accumulate(right, min)
    return max(now - least for now, least in zip(right, lowest, strict=True)) / len(shared)
