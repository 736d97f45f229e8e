"""What an evaluation leaves behind: per-example rows, and the summary records that are computed from them."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from robust_student.results.calibration import calibration
from robust_student.results.class_measures import Confusion
from robust_student.results.comparison import Difference, adjust, paired
from robust_student.results.intervals import Estimate, mean_over_examples, median, relative_drop, wilson
from robust_student.results.perturbation import Perturbation
from robust_student.results.rows import Key, Row, outcomes, shared_outcomes

SUMMARY_SCHEMA = 1


def summarise(
    groups: Mapping[Key, Mapping[int, Row]],
    *,
    verdicts: Mapping[str, Mapping[str, Any]],
    costs: Mapping[str, Mapping[str, float | int]],
    baseline: str | None,
    seed: int,
    split: str = "test",
) -> list[dict[str, Any]]:
    """Summary records (docs/results-format.md), computed from the rows alone.

    Args:
        groups: rows as `group` arranges them.
        verdicts: masking verdict by model; attached to every adversarial accuracy.
        costs: parameters, MACs, file size and latency by model.
        baseline: model to which the others are compared on the same examples.
        seed: of the evaluation.
        split: which examples they are.
    """
    records = []
    compared: list[tuple[dict[str, Any], Any, Difference]] = []
    for (model, perturbation, setting), rows in groups.items():
        common: dict[str, Any] = {
            "model": model,
            "split": split,
            "perturbation": perturbation,
            "setting": setting,
            "seed": seed,
        }
        kind = Perturbation.parse(perturbation)
        if kind.family == "radius":
            radii = [row.radius for row in rows.values()]
            common |= {"perturbation": "none", "unit": kind.norm, "metric": f"median_{perturbation}"}
            records.append(record(common, median(radii), "order_statistics95", len(radii)))
            continue
        common["unit"] = kind.unit
        verdict = verdicts.get(model) if kind.is_attack else None
        records += _accuracies(common, rows, verdict)
        rival = groups.get((baseline, perturbation, setting)) if baseline and model != baseline else None
        if rival is not None:
            difference = paired(*shared_outcomes(rows, rival))
            named = {**common, "metric": f"accuracy_minus_{baseline}"}
            records.append(record(named, difference.estimate, "paired_bootstrap95", difference.n[0], verdict))
            compared.append((common, verdict, difference))
    records += _tests(compared, baseline)
    records += _corruption_records(groups, baseline, seed, split)
    for model, cost in costs.items():
        for metric, value in cost.items():
            common = {"model": model, "split": split, "perturbation": "none", "setting": None, "seed": seed}
            common |= {"unit": COST_UNITS[metric], "metric": metric}
            records.append(record(common, Estimate(value, math.nan, math.nan), None, 1))
    return records


def _accuracies(common: Mapping[str, Any], rows: Mapping[int, Row], verdict: Any) -> list[dict[str, Any]]:
    """Accuracy, plain, balanced and of the worst class, calibration and, under noise, the realised SNR in one cell."""
    counted = outcomes(rows)
    estimate = wilson(sum(counted.values()), len(counted))
    records = [record({**common, "metric": "accuracy"}, estimate, "wilson95", len(counted), verdict)]
    confusion = Confusion.of(rows)
    even = {**common, "metric": "balanced_accuracy"}
    records.append(record(even, confusion.balanced_accuracy(), "stratified_wilson95", len(counted), verdict))
    worst = min(confusion.measures(), key=lambda measures: measures.recall.value, default=None)
    if worst is not None:
        named = {**common, "metric": "worst_class_accuracy"}
        records.append(record(named, worst.recall, "wilson95", worst.n, verdict))
    if Perturbation.parse(common["perturbation"]).family == "noise":
        realised = [row.value for row in rows.values() if row.value is not None]
        mean = sum(realised) / len(realised) if realised else math.nan
        alone = Estimate(mean, math.nan, math.nan)
        records.append(record({**common, "metric": "mean_realised_snr_db"}, alone, None, len(realised)))
        excluded = Estimate(len(rows) - len(counted), math.nan, math.nan)
        records.append(record({**common, "metric": "excluded_examples"}, excluded, None, len(rows)))
    scored = [
        (row.confidence, bool(row.correct), row.nll, row.brier)
        for row in rows.values()
        if row.confidence is not None and row.nll is not None and row.brier is not None
    ]
    if scored:
        figures = calibration(
            [s[0] for s in scored], [s[1] for s in scored], [s[2] for s in scored], [s[3] for s in scored]
        )
        for metric, estimate in figures._asdict().items():
            unit = "nats" if metric == "negative_log_likelihood" else None
            records.append(record({**common, "unit": unit, "metric": metric}, estimate, "bootstrap95", len(scored)))
    return records


def _tests(compared: list[tuple[dict[str, Any], Any, Difference]], baseline: str | None) -> list[dict[str, Any]]:
    """McNemar's p-values, alone and after Holm's correction over the comparisons made together.

    Corruptions, of which there may be dozens, are a family of their own.
    """
    records = []
    for corrupted in (False, True):
        family = [comparison for comparison in compared if _is_corruption(comparison[0]["perturbation"]) is corrupted]
        for (common, verdict, _), d in zip(family, adjust([comparison[2] for comparison in family]), strict=True):
            for metric, p, n in (("mcnemar_p", d.p, d.n[0]), ("holm_p", d.adjusted_p, d.family)):
                alone = Estimate(math.nan if p is None else p, math.nan, math.nan)
                named = {**common, "unit": None, "metric": f"{metric}_against_{baseline}"}
                records.append(record(named, alone, None, n, verdict))
    return records


def _corruption_records(
    groups: Mapping[Key, Mapping[int, Row]], baseline: str | None, seed: int, split: str
) -> list[dict[str, Any]]:
    """Means over all kinds and severities, with intervals over examples: the same examples are in every cell."""
    right: dict[str, dict[int, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for (model, perturbation, _), rows in groups.items():
        if _is_corruption(perturbation):
            for index, row in rows.items():
                right[model][index].append(bool(row.correct))
    share = {model: {i: sum(cells) / len(cells) for i, cells in of.items()} for model, of in right.items()}
    records = []
    for model, shares in share.items():
        common: dict[str, Any] = {"model": model, "split": split, "perturbation": "corruptions", "setting": None}
        common |= {"unit": None, "seed": seed}
        clean = groups.get((model, "none", None), {})
        before = {i: float(bool(clean[i].correct)) for i in shares if i in clean}
        mean = mean_over_examples(list(shares.values()))
        drop = relative_drop(list(before.values()), [shares[i] for i in before])
        estimates = {
            "mean_corruption_accuracy": (mean, "bootstrap95"),
            "relative_corruption_drop": (drop, "bootstrap95"),
        }
        if baseline in share and model != baseline:
            pair = mean_over_examples([value - share[baseline][i] for i, value in shares.items()])
            estimates[f"mean_corruption_accuracy_minus_{baseline}"] = (pair, "paired_bootstrap95")
        records += [
            record({**common, "metric": metric}, estimate, interval, len(shares))
            for metric, (estimate, interval) in estimates.items()
        ]
    return records


COST_UNITS = {"parameters": "count", "macs": "count", "file_size": "bytes", "latency": "ms"}
"""Metrics of size and speed with their units; MACs and latency are of one example."""


def _is_corruption(perturbation: str) -> bool:
    return Perturbation.parse(perturbation).family == "corruption"


def find(records: Iterable[Mapping[str, Any]], model: str, metric: str, perturbation: str = "none") -> list[Any]:
    """Records of one model, metric and perturbation, by growing setting."""
    matching = [r for r in records if (r["model"], r["metric"], r["perturbation"]) == (model, metric, perturbation)]
    return sorted(matching, key=lambda r: -math.inf if r["setting"] is None else r["setting"])


def record(
    common: Mapping[str, Any], estimate: Estimate, interval: str | None, n: int, verdict: Any = None
) -> dict[str, Any]:
    """One summary record in the order of docs/results-format.md; numbers that are not finite become null."""
    value, low, high = (number if math.isfinite(number) else None for number in estimate)
    return {
        "schema": SUMMARY_SCHEMA,
        "model": common["model"],
        "split": common["split"],
        "perturbation": common["perturbation"],
        "setting": common["setting"],
        "unit": common["unit"],
        "metric": common["metric"],
        "value": value,
        "low": low,
        "high": high,
        "interval": interval,
        "n": n,
        "seed": common["seed"],
        "verdict": verdict,
    }
