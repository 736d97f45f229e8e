"""What rows of radii say: certified accuracy, medians, ratios, and whether every bound is on its own side."""

import bisect
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from robust_student.core.norms import NormName
from robust_student.results.intervals import Estimate, median, ratio_of_medians, wilson
from robust_student.results.records import record
from robust_student.results.rows import Key, Row

MEANINGS = ("decision", "confidence")
"""r_A and r_B."""
_Rows: TypeAlias = Mapping[tuple[str, float | None], Mapping[int, Row]]
"""Rows of one model by perturbation and setting, then by example."""
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
    models = list(dict.fromkeys(model for model, _, _ in groups))
    records: list[dict[str, Any]] = []
    for model in models:
        mine = {key[1:]: rows for key, rows in groups.items() if key[0] == model}
        writer = _Writer(records, model, norm, seed, split)
        clean = mine["none", None]
        writer.share("accuracy", "none", None, [bool(row.correct) for row in clean.values()])
        columns = radii_by_kind(mine, norm)
        for kind, column in columns.items():
            writer.add(f"median_{kind}", "none", None, median(list(column.values())), "order_statistics95", len(column))
        for kind, column in columns.items():
            head, _, rest = kind.partition("_")
            meaning = "confidence" if "confidence" in rest else "decision"
            if head in ("certified", "attack"):
                metric = f"{head}_{'accuracy' if meaning == 'decision' else 'confidence'}"
                for budget in budgets:
                    held = [r >= budget if head == "certified" else r > budget for r in column.values()]
                    writer.share(metric, kind, budget, held)
        for meaning in MEANINGS:
            kind = f"certified_{meaning}_radius"
            if kind in columns and f"attack_{meaning}_radius" in columns:
                both = brackets(columns, meaning)
                alone = Estimate(sum(bracket.violated for bracket in both.values()), math.nan, math.nan)
                writer.add("sandwich_violations", kind, None, alone, None, len(both))
        if "estimated_confidence_radius" in columns:
            confident = [radius > 0 for radius in columns["estimated_confidence_radius"].values()]
            writer.share("more_confident_than_teacher", "none", None, confident)
        guide = radii_by_kind({key[1:]: rows for key, rows in groups.items() if key[0] == teacher}, norm)
        ours, theirs = (both.get("certified_decision_radius", {}) for both in (columns, guide))
        for budget in budgets:
            agreed = certified_agreement(ours, theirs, budget)
            if agreed is not None:
                share, count = agreed
                writer.add("certified_agreement", "certified_decision_radius", budget, share, "wilson95", count)
        for (kind, setting), rows in mine.items():
            if kind.startswith("agreement_"):
                writer.share("agreement", kind, setting, [bool(row.correct) for row in rows.values()])
    _compare(records, groups, models, norm, baseline, seed, split)
    return records


def best_certified(mine: _Rows, norm: str, meaning: str) -> dict[int, float]:
    """The largest of the deterministic certified radii of each example that every method was run on."""
    tail = f"_{meaning}_radius_{norm}"
    columns = [rows for (kind, _), rows in mine.items() if kind.startswith("certified_") and kind.endswith(tail)]
    if not columns:
        return {}
    shared = set.intersection(*(set(rows) for rows in columns))
    return {index: max(radius_of(rows[index]) for rows in columns) for index in columns[0] if index in shared}


def radius_of(row: Row) -> float:
    """The radius in a row; infinite where it says so."""
    return math.inf if row.detail == "infinite" else float(row.value or 0.0)


def radii_by_kind(mine: _Rows, norm: str) -> dict[str, dict[int, float]]:
    """Radii by example for every kind, named without the norm, and the best of the certified ones."""
    tail = f"_{norm}"
    columns = {
        kind.removesuffix(tail): {index: radius_of(row) for index, row in rows.items()}
        for (kind, _), rows in mine.items()
        if "_radius_" in kind
    }
    for meaning in MEANINGS:
        best = best_certified(mine, norm, meaning)
        if best:
            columns[f"certified_{meaning}_radius"] = best
    return columns


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
    best, found = (columns.get(f"{side}_{meaning}_radius", {}) for side in ("certified", "attack"))
    shared = [index for index in best if index in found] if best and found else [*best, *found]
    made = {
        index: Bracket(*(columns.get(f"{k}_{meaning}_radius", {}).get(index, math.nan) for k in Bracket._fields))
        for index in shared
    }
    order = sorted(shared, key=lambda index: (best.get(index, 0.0), found.get(index, 0.0), index))
    return {index: made[index] for index in order}


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
    mine: Mapping[int, float], theirs: Mapping[int, float], budget: float
) -> tuple[Estimate, int] | None:
    """Share of shared examples on which two models provably decide alike over the whole budget, and how many those are.

    A lower bound: both best certified decision radii are at least the budget, so both decide for the label.
    """
    shared = [index for index in mine if index in theirs]
    held = sum(min(mine[index], theirs[index]) >= budget for index in shared)
    return (wilson(held, len(shared)), len(shared)) if shared else None


def _compare(
    records: list[dict[str, Any]],
    groups: Mapping[Key, Mapping[int, Row]],
    models: Sequence[str],
    norm: NormName,
    baseline: str | None,
    seed: int,
    split: str,
) -> None:
    """Ratios of medians to the baseline's, on the same examples."""
    of = {
        model: radii_by_kind({key[1:]: rows for key, rows in groups.items() if key[0] == model}, norm)
        for model in models
    }
    for model in models:
        writer = _Writer(records, model, norm, seed, split)
        if baseline is None or model == baseline:
            continue
        for kind, column in of[model].items():
            rival = of[baseline].get(kind, {})
            shared = [index for index in column if index in rival]
            if shared:
                ratio = ratio_of_medians([column[i] for i in shared], [rival[i] for i in shared])
                writer.add(f"median_{kind}_over_{baseline}", "none", None, ratio, "paired_bootstrap95", len(shared))


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
