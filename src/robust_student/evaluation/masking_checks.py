"""The measurements behind the masking verdict: cells of an evaluation on a few of the attacked examples."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from robust_student.attacks.ascent import ascend
from robust_student.attacks.attack import Attack
from robust_student.attacks.pgd import Loss, Pgd, descend
from robust_student.attacks.square import Square
from robust_student.core.errors import UserError
from robust_student.core.margins import input_gradient, margin, true_score
from robust_student.core.rng import example_seeds
from robust_student.core.tensors import Inputs, Labels, Logits, PerExample, Shape, answers
from robust_student.core.threat_model import ThreatModel
from robust_student.evaluation.attack_measurements import attacked_alone, attacked_in_turn, grade
from robust_student.evaluation.measurements import Measure, MeasuredBatch, Measurement, passes_of, rows_of
from robust_student.evaluation.settings import EvaluationSettings
from robust_student.evaluation.threats import Threats
from robust_student.models.model import Model
from robust_student.results.perturbation import Perturbation
from robust_student.results.rows import Row

GRADIENT, REPETITION, OUTPUTS, ALONE, STEPS, CROSS_ENTROPY, RESCALED, TRANSFER, SQUARE = (
    Perturbation("masking", name)
    for name in (
        "gradient",
        "repetition",
        "outputs",
        "alone",
        "steps",
        "cross_entropy",
        "rescaled",
        "transfer",
        "square",
    )
)
"""Their rows count for the verdict and are no result of their own."""
_SAME = 1e-4
"""Logits of two passes are the same where they differ by at most this share of the largest one."""
_ROUNDED = 0.02
"""The same of passes in batches of other sizes, for which kernels round otherwise: bfloat16 keeps 8 bits."""
_FEW_STEPS, _QUERIES = 10, 500
"""Square gets this many queries, and what a short PGD does not break: the rest cannot count for its check."""


def budgets_check(norm: str) -> Perturbation:
    """PGD at a smaller budget on what a larger one may have missed."""
    return Perturbation("masking", f"budgets_{norm}")


def masking_plans(
    models: Mapping[str, Model], threats: Threats, settings: EvaluationSettings, attacked: int
) -> dict[str, list[Measurement]]:
    """What to measure on each model for its verdict, on the first of the attacked examples, cheapest first.

    The attacks have AutoAttack's threat model, whether it is run or not; only those on budgets have PGD's. Raises
    UserError where a surrogate is not among the models.
    """
    masking, threat = settings.masking, threats.autoattack
    surrogates = tuple(models) if masking.surrogates is None else masking.surrogates
    unknown = [name for name in surrogates if name not in models]
    if unknown:
        raise UserError(f"evaluate: surrogate '{unknown[0]}' is not among the models ({', '.join(models)})")
    ladder = [float(steps) for steps in sorted(set(masking.steps))]
    count, seed = min(attacked, masking.examples), settings.seed
    passes: list[tuple[Perturbation, Measure]] = [
        (GRADIENT, _gradient),
        (REPETITION, _repetition),
        (ALONE, _alone_or_not),
        (OUTPUTS, _outputs),
    ]
    cells = [Measurement(kind, [None], count, run) for kind, run in passes]

    def add(kind: Perturbation, setting: float, attack: Attack, at: ThreatModel) -> None:
        cells.append(
            Measurement(kind, [setting], count, attacked_alone(kind, setting, attack, at, seed), passes_of(attack))
        )

    for steps in ladder:
        add(STEPS, steps, _PgdOn(margin, int(steps)), threat)
    add(CROSS_ENTROPY, ladder[-1], _PgdOn(_log_probability, int(ladder[-1])), threat)
    add(RESCALED, ladder[-1], _PgdOn(_rescaled, int(ladder[-1])), threat)
    for norm, threats_of_norm in () if settings.every_budget else threats.pgd.items():
        for at in _middle(threats_of_norm):
            add(budgets_check(norm), at.budget, Pgd(settings.pgd_steps), at)
    if settings.autoattack == "screening":  # the other suites of AutoAttack have a Square of their own
        attacks = [_PgdOn(margin, _FEW_STEPS), Square(_QUERIES)]
        in_turn = attacked_in_turn(SQUARE, attacks, threat, seed)
        cells.append(Measurement(SQUARE, [threat.budget], count, in_turn, passes_of(*attacks)))
    transfer = _transfer({name: models[name] for name in surrogates}, threat, seed, ladder[-1])
    plans = {name: list(cells) for name in models}
    for name, plan in plans.items():
        if any(other != name for other in surrogates):
            plan.append(Measurement(TRANSFER, [ladder[-1]], count, transfer, 3 * int(ladder[-1])))
    return plans


def _middle(threats: Sequence[ThreatModel]) -> list[ThreatModel]:
    """The middle budget; all examples are attacked at the largest anyway. Empty where there is one only."""
    growing = sorted(threats, key=lambda threat: threat.budget)
    return growing[(len(growing) - 1) // 2 :][:1] if len(growing) > 1 else []


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

    @property
    def passes(self) -> int:
        """Of the steps."""
        return 3 * self.steps

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
