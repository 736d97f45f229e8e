"""What rows of radii say: certified accuracy, medians, ratios, and whether every bound is on its own side."""

import bisect
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, TypeAlias, get_args

from robust_student.core.norms import NormName
from robust_student.results.intervals import Estimate, median, ratio_of_medians, wilson
from robust_student.results.perturbation import Meaning, Perturbation
from robust_student.results.records import record
from robust_student.results.rows import Key, Row

MEANINGS: tuple[Meaning, ...] = get_args(Meaning)
"""r_A and r_B."""
_Rows: TypeAlias = Mapping[tuple[str, float | None], Mapping[int, Row]]
"""Rows of one model by perturbation and setting, then by example."""
_Columns: TypeAlias = Mapping[str, Mapping[int, float]]
"""Radii of one model by kind, without the norm, then by example."""
_ROUNDING = 1e-6  # relative: an attack's size and a certified radius are both rounded


def summarise_radii(
    groups: Mapping[Key, Mapping[int, Row]],
    *,
    norm: NormName,
    budgets: Sequence[float],
    baseline: str | None,
    teacher: str | None = None,
    seed: int,
    split: str = "test",
) -> list[dict[str, Any]]:
    """Summary records (docs/results-format.md) of rows of radii, computed from the rows alone.

    Clean accuracy; median of every kind of radius; share of examples certified (`certified_accuracy`,
    `certified_confidence`) or not yet broken by an attack (`attack_accuracy`, `attack_confidence`) at each budget;
    ratio of medians to the baseline's; share of examples that are as confident as the teacher at x, and on which both
    agree (`agreement`: no tried point parted them; `certified_agreement`: they cannot part within the budget); and
    `sandwich_violations`, the number of examples whose certified radius exceeds the smallest perturbation found, which
    must be 0.
    """
    by_model: dict[str, dict[tuple[str, float | None], Mapping[int, Row]]] = {}
    for (model, kind, setting), rows in groups.items():
        by_model.setdefault(model, {})[kind, setting] = rows
    columns = {model: radii_by_kind(model_rows, norm) for model, model_rows in by_model.items()}
    teacher_columns = columns.get(teacher, {}) if teacher is not None else {}
    records: list[dict[str, Any]] = []
    for model, model_rows in by_model.items():
        writer = _Writer(records, model, norm, seed, split)
        writer.share("accuracy", "none", None, [bool(row.correct) for row in model_rows["none", None].values()])
        _medians(writer, columns[model])
        _shares_at_budgets(writer, columns[model], budgets)
        _violations(writer, columns[model])
        _agreements(writer, model_rows, columns[model], teacher_columns, budgets)
    for model in by_model:
        if baseline is not None and model != baseline:
            _ratios(_Writer(records, model, norm, seed, split), columns[model], columns[baseline], baseline)
    return records


def _medians(writer: "_Writer", columns: _Columns) -> None:
    for kind, column in columns.items():
        writer.add(f"median_{kind}", "none", None, median(list(column.values())), "order_statistics95", len(column))


def _shares_at_budgets(writer: "_Writer", columns: _Columns, budgets: Sequence[float]) -> None:
    """How many examples are certified at each budget, or not yet broken by an attack."""
    for kind, column in columns.items():
        radius = Perturbation.parse(kind)
        side, noun = radius.name.partition("_")[0], "confidence" if radius.meaning == "confidence" else "accuracy"
        if side not in ("certified", "attack"):
            continue
        for budget in budgets:
            held = [r >= budget if side == "certified" else r > budget for r in column.values()]
            writer.share(f"{side}_{noun}", kind, budget, held)


def _violations(writer: "_Writer", columns: _Columns) -> None:
    """Certified radii above the smallest perturbation found: there must be none."""
    for meaning in MEANINGS:
        kind = str(Perturbation.radius("certified", meaning))
        if kind in columns and str(Perturbation.radius("attack", meaning)) in columns:
            both = brackets(columns, meaning)
            alone = Estimate(sum(bracket.violated for bracket in both.values()), math.nan, math.nan)
            writer.add("sandwich_violations", kind, None, alone, None, len(both))


def _agreements(
    writer: "_Writer", model_rows: _Rows, columns: _Columns, teacher_columns: _Columns, budgets: Sequence[float]
) -> None:
    """How sure the model is beside the teacher, and whether both decide alike: proved, and not disproved."""
    sure, best = str(Perturbation.radius("estimated", "confidence")), str(Perturbation.radius("certified", "decision"))
    if sure in columns:
        writer.share("more_confident_than_teacher", "none", None, [radius > 0 for radius in columns[sure].values()])
    for budget in budgets:
        agreed = certified_agreement(columns.get(best, {}), teacher_columns.get(best, {}), budget)
        if agreed is not None:
            writer.add("certified_agreement", best, budget, agreed[0], "wilson95", agreed[1])
    for (kind, setting), rows in model_rows.items():
        if Perturbation.parse(kind).family == "agreement":
            writer.share("agreement", kind, setting, [bool(row.correct) for row in rows.values()])


def _ratios(writer: "_Writer", columns: _Columns, rivals: _Columns, baseline: str) -> None:
    """Medians over the baseline's, on the same examples."""
    for kind, column in columns.items():
        rival = rivals.get(kind, {})
        shared = [index for index in column if index in rival]
        if shared:
            ratio = ratio_of_medians([column[i] for i in shared], [rival[i] for i in shared])
            writer.add(f"median_{kind}_over_{baseline}", "none", None, ratio, "paired_bootstrap95", len(shared))


def radii_by_kind(model_rows: _Rows, norm: str) -> dict[str, dict[int, float]]:
    """Radii by example for every kind, named without the norm, and the best of the certified ones."""
    columns: dict[str, dict[int, float]] = {}
    certified: dict[Meaning, list[dict[int, float]]] = {meaning: [] for meaning in MEANINGS}
    for (text, _), rows in model_rows.items():
        kind = Perturbation.parse(text)
        if kind.family != "radius":
            continue
        column = {index: row.radius for index, row in rows.items()}
        if kind.norm != norm:
            columns[text] = column
            continue
        columns[str(replace(kind, norm=None))] = column
        if kind.meaning is not None and kind.name.startswith("certified_"):
            certified[kind.meaning].append(column)
    for meaning, methods in certified.items():
        best = _largest(methods)
        if best:
            columns[str(Perturbation.radius("certified", meaning))] = best
    return columns


def _largest(columns: Sequence[Mapping[int, float]]) -> dict[int, float]:
    """The largest radius of each example that is in all columns."""
    shared = [index for index in columns[0] if all(index in column for column in columns)] if columns else []
    return {index: max(column[index] for column in columns) for index in shared}


class Bracket(NamedTuple):
    """The radii of one example; NaN where a kind was not measured on it."""

    certified: float
    """The best certified one: a lower bound."""
    sampled: float
    estimated: float
    attack: float
    """The smallest perturbation found: an upper bound."""

    @property
    def violated(self) -> bool:
        """Whether the lower bound is above the upper one, which must not happen."""
        return self.certified > self.attack * (1 + _ROUNDING)


def brackets(columns: Mapping[str, Mapping[int, float]], meaning: str) -> dict[int, Bracket]:
    """Examples that have both bounds (or the one that was measured), by growing certified radius, then attack's."""
    kinds = {name: columns.get(f"{name}_{meaning}_radius", {}) for name in Bracket._fields}
    certified, attacked = kinds["certified"], kinds["attack"]
    shared = [index for index in certified if index in attacked] if certified and attacked else [*certified, *attacked]
    order = sorted(shared, key=lambda index: (certified.get(index, 0.0), attacked.get(index, 0.0), index))
    return {index: Bracket(*(kind.get(index, math.nan) for kind in kinds.values())) for index in order}


def share_beyond(radii: Sequence[float], grid: Sequence[float], *, certified: bool) -> list[Estimate]:
    """Share of examples whose property stands at each r of the grid: certified there, or not broken up to there.

    Certified counts at r where the radius is at least r (and above 0: a radius of 0 certifies nothing), an attack where
    its smallest perturbation is larger than r.
    """
    ordered = sorted(radii)
    first = bisect.bisect_right(ordered, 0.0)
    counts = [
        len(ordered) - (max(first, bisect.bisect_left(ordered, r)) if certified else bisect.bisect_right(ordered, r))
        for r in grid
    ]
    intervals = {count: wilson(count, len(ordered)) for count in set(counts)}
    return [intervals[count] for count in counts]


def certified_agreement(
    first: Mapping[int, float], second: Mapping[int, float], budget: float
) -> tuple[Estimate, int] | None:
    """Share of shared examples on which two models provably decide alike over the whole budget, and how many those are.

    A lower bound: both best certified decision radii are at least the budget, so both decide for the label.
    """
    shared = [index for index in first if index in second]
    held = sum(min(first[index], second[index]) >= budget for index in shared)
    return (wilson(held, len(shared)), len(shared)) if shared else None


class _Writer:
    """Adds records of one model."""

    def __init__(self, records: list[dict[str, Any]], model: str, norm: str, seed: int, split: str) -> None:
        self.records = records
        self.common = {"model": model, "split": split, "unit": norm, "seed": seed}

    def add(
        self, metric: str, perturbation: str, setting: float | None, estimate: Estimate, interval: str | None, n: int
    ) -> None:
        common = {**self.common, "metric": metric, "perturbation": perturbation, "setting": setting}
        self.records.append(record(common, estimate, interval, n))

    def share(self, metric: str, perturbation: str, setting: float | None, outcomes: Sequence[bool]) -> None:
        self.add(metric, perturbation, setting, wilson(sum(outcomes), len(outcomes)), "wilson95", len(outcomes))
