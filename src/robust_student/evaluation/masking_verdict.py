"""The masking verdict of a model from its rows: each check gives a share of some examples, or why it did not run."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from robust_student.evaluation.masking_checks import (
    ALONE,
    CROSS_ENTROPY,
    GRADIENT,
    OUTPUTS,
    REPETITION,
    RESCALED,
    SQUARE,
    STEPS,
    TRANSFER,
    budgets_check,
)
from robust_student.evaluation.settings import EvaluationSettings
from robust_student.evaluation.threats import Threats
from robust_student.results.class_measures import Confusion
from robust_student.results.collapse import collapse_figures
from robust_student.results.masking import CheckName, Verdict, judge
from robust_student.results.perturbation import CLEAN, Perturbation
from robust_student.results.rows import Row

_Rows = Mapping[int, Row]
"""The rows of one model, perturbation and setting by example."""
_Cells = Mapping[tuple[Perturbation, float | None], _Rows]


@dataclass(frozen=True)
class _Share:
    """A share of some examples."""

    value: float
    examples: int

    @classmethod
    def of(cls, outcomes: Iterable[bool]) -> "_Share":
        """How many of them are true."""
        counted = list(outcomes)
        return cls(sum(counted) / len(counted), len(counted))


_Figures = dict[CheckName, _Share | str]
"""What checks measured, or why they did not run."""


def masking_verdict(
    rows: Mapping[tuple[str, float | None], _Rows], threats: Threats, settings: EvaluationSettings
) -> Verdict:
    """The verdict on one model from its rows by perturbation and setting."""
    cells = {(Perturbation.parse(kind), setting): cell for (kind, setting), cell in rows.items()}
    attacks = _Attacks.of(cells, threats, settings)
    measured = _passes(cells) | _budgets(cells, threats, settings) | _steps(attacks) | _losses(attacks)
    measured |= _autoattack(attacks) | _transfer(attacks) | _answers(cells)
    shares = {name: figure for name, figure in measured.items() if isinstance(figure, _Share)}
    return judge(
        {name: share.value for name, share in shares.items()},
        {name: reason for name, reason in measured.items() if isinstance(reason, str)},
        {name: share.examples for name, share in shares.items()},
    )


@dataclass(frozen=True)
class _Attacks:
    """The rows of the attacks at AutoAttack's budget."""

    steps: list[int]
    """Of PGD on the margin, growing."""
    ladder: list[_Rows]
    """Its rows at these numbers of steps."""
    cross_entropy: _Rows
    rescaled: _Rows
    autoattack: _Rows | None
    """With Square, where that ran as a check on its own: of the examples of the check."""
    transferred: _Rows | None

    @classmethod
    def of(cls, cells: _Cells, threats: Threats, settings: EvaluationSettings) -> "_Attacks":
        steps, threat = sorted(set(settings.masking.steps)), threats.autoattack
        last = float(steps[-1])
        return cls(
            steps,
            [cells[STEPS, float(number)] for number in steps],
            cells[CROSS_ENTROPY, last],
            cells[RESCALED, last],
            _with_square(
                cells.get((Perturbation.attack("autoattack", threat.norm.name), threat.budget)),
                cells.get((SQUARE, threat.budget)),
            ),
            cells.get((TRANSFER, last)),
        )

    @property
    def white(self) -> list[_Rows]:
        """The attacks on the model's own gradients; what fell to Square alone stands."""
        rows = self.autoattack or {}
        spared = {i: replace(row, correct=True) if row.detail == "square" else row for i, row in rows.items()}
        return [*self.ladder, self.cross_entropy, self.rescaled, *([spared] if spared else [])]


def _with_square(autoattack: _Rows | None, square: _Rows | None) -> _Rows | None:
    """What AutoAttack without Square and Square on its own find together."""
    if autoattack is None or square is None:
        return autoattack
    fell = {i: row.detail == "square" and bool(autoattack[i].correct) for i, row in square.items()}
    return {i: replace(autoattack[i], correct=False, detail="square") if fell[i] else autoattack[i] for i in square}


def _passes(cells: _Cells) -> _Figures:
    """What single passes show: gradients, repetition, batches and outputs."""
    random = _share(cells[REPETITION, None], "different")
    return {
        "zero_gradients": _share(cells[GRADIENT, None], "zero"),
        "nan_gradients": _share(cells[GRADIENT, None], "nan"),
        "random_outputs": random,
        "batch_outputs": "the outputs are random, whatever the batch"
        if random.value
        else _share(cells[ALONE, None], "different"),
        "probability_outputs": _share(cells[OUTPUTS, None], "probabilities"),
    }


def _budgets(cells: _Cells, threats: Threats, settings: EvaluationSettings) -> _Figures:
    """PGD without a limit, and whether a larger budget finds less than a smaller one."""
    unlimited = None
    if threats.whole is not None:
        unlimited = cells.get((Perturbation.attack("pgd", "linf"), threats.whole.budget))
    ladders = []
    for norm, threats_of_norm in threats.pgd.items():
        largest = max((threat.budget for threat in threats_of_norm), default=0.0)
        attacked = _by_budget(cells, Perturbation.attack("pgd", norm), 0.0 if settings.every_budget else largest)
        ladders.append([*_by_budget(cells, budgets_check(norm)), *attacked])
    rises = [_rise(ladder) for ladder in ladders if len(ladder) > 1]
    return {
        "unbounded_accuracy": "the inputs have no range, so no budget covers all of them"
        if unlimited is None
        else _standing(unlimited),
        "budget_rise": max(rises, key=lambda rise: rise.value) if rises else "PGD ran at one budget at most",
    }


def _steps(attacks: _Attacks) -> _Figures:
    """Whether more steps find less than fewer."""
    steps, ladder = attacks.steps, attacks.ladder
    several = len(steps) > 1
    return {
        "step_rise": _rise(ladder) if several else "masking.steps has one entry only",
        "one_step_lead": _rise([ladder[0], ladder[-1]])
        if several and steps[0] == 1
        else "masking.steps does not go from 1 to a larger number",
    }


def _losses(attacks: _Attacks) -> _Figures:
    """Whether cross-entropy misleads an attack that the margin or rescaled logits guide."""
    return {
        "margin_only": _alone(attacks.ladder[-1], [attacks.cross_entropy]),
        "rescaled_only": _alone(attacks.rescaled, [attacks.cross_entropy]),
    }


def _autoattack(attacks: _Attacks) -> _Figures:
    """What AutoAttack finds that PGD does not, and what Square finds alone."""
    if attacks.autoattack is None:
        return dict.fromkeys(("square_only", "autoattack_only"), "AutoAttack was not run")
    return {
        "square_only": _share(attacks.autoattack, "square"),
        "autoattack_only": _alone(attacks.autoattack, [attacks.ladder[-1]]),
    }


def _transfer(attacks: _Attacks) -> _Figures:
    """What only the gradients of another model find."""
    if attacks.transferred is None:
        return {"transfer_only": "no other model was evaluated that an attack could be made on"}
    return {"transfer_only": _alone(attacks.transferred, attacks.white)}


def _answers(cells: _Cells) -> _Figures:
    """Whether the model tells the clean inputs of different classes apart."""
    clean = cells[CLEAN, None]
    figures = collapse_figures(Confusion.of(clean))
    if not figures:
        return dict.fromkeys(("one_answer", "chance_level"), "the examples are of one class")
    return {name: _Share(value, len(clean)) for name, value in figures.items()}


def _by_budget(cells: _Cells, kind: Perturbation, least: float = 0.0) -> list[_Rows]:
    """The cells of a perturbation by growing budget, from the least one on."""
    budgets = sorted(budget for name, budget in cells if name == kind and budget is not None and budget >= least)
    return [cells[kind, budget] for budget in budgets]


def _share(rows: _Rows, detail: str) -> _Share:
    """Share of the examples whose row has this detail."""
    return _Share.of(row.detail == detail for row in rows.values())


def _standing(rows: _Rows) -> _Share:
    """Accuracy."""
    return _Share.of(bool(row.correct) for row in rows.values())


def _alone(attack: _Rows, others: Iterable[_Rows]) -> _Share:
    """Share of the examples that all attacks saw which fell to the first and to none of the others."""
    rivals = list(others)
    shared = [i for i in attack if all(i in rows for rows in rivals)]
    return _Share.of(not attack[i].correct and all(rows[i].correct for rows in rivals) for i in shared)


def _rise(growing: Sequence[_Rows]) -> _Share:
    """The most accuracy that a later cell has over an earlier one, on the examples that all cells saw; at least 0."""
    shared = [i for i in growing[0] if all(i in rows for rows in growing)]
    right = [sum(bool(rows[i].correct) for i in shared) for rows in growing]
    lowest = accumulate(right, min)
    return _Share(max(now - least for now, least in zip(right, lowest, strict=True)) / len(shared), len(shared))
