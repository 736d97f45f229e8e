"""Several seeds: figures of models of the same names averaged over evaluations, with the spread over seeds."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from robust_student.core.errors import UserError
from robust_student.report.document import Document, Section, Table
from robust_student.report.evaluation import Evidence
from robust_student.report.pages import number
from robust_student.report.plain_text import REPORT_SCHEMA, plain_spaces, sample_words
from robust_student.results.intervals import mean_of_runs

SHARES = ("accuracy", "worst_class_accuracy", "mean_corruption_accuracy")
"""Metrics whose intervals over seeds are cut at 0 and 1."""
SCORES = ("negative_log_likelihood", "brier_score")
"""Metrics that are shown as they are, not times 100."""
COUNTED = ("parameters", "macs", "file_size", "latency", "excluded_examples")
"""Metrics that say nothing about a seed."""


def merge(summaries: Sequence[Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Mean, standard deviation (n - 1), number of seeds and Student's 95 % t interval of each figure.

    One record per model, perturbation, setting and metric that every summary has, in the first one's order; p-values
    and costs are left out, and so is what has no value somewhere.

    Args:
        summaries: the records of `summary.json` of each seed.
    """
    tables = [{_key(r): r for r in records if _counts(r)} for records in summaries]
    merged = []
    for key, first in tables[0].items():
        found = [table[key] for table in tables if key in table]
        if len(found) < len(tables):
            continue
        values = [float(r["value"]) for r in found]
        mean, low, high = mean_of_runs(values)
        if first["metric"] in SHARES:
            low, high = max(low, 0.0), min(high, 1.0)
        verdicts = {r["verdict"]["level"] for r in found if r["verdict"]}
        merged.append(
            {
                **{name: first[name] for name in ("model", "split", "perturbation", "setting", "metric")},
                "unit": first.get("unit"),
                "mean": mean,
                "sd": float(np.std(values, ddof=1)) if len(values) > 1 else None,
                "low": None if math.isnan(low) else low,
                "high": None if math.isnan(high) else high,
                "interval": "student_t95",
                "seeds": len(values),
                "values": values,
                "verdict": next((level for level in ("FAIL", "WARN", "PASS") if level in verdicts), None),
            }
        )
    return merged


def check(evaluations: Mapping[str, Evidence]) -> None:
    """UserError where the evaluations do not belong together: no model in common, other classes or splits."""
    (label, reference), *later = evaluations.items()
    for other, evidence in later:
        if evidence.details["classes"] != reference.details["classes"] or evidence.split != reference.split:
            raise UserError(f"report: {label} and {other} have other classes or splits")
    if not _shared(evaluations):
        raise UserError(
            f"report: {', '.join(evaluations)} have no model of the same name, so there is nothing to average"
        )


def numbers(evaluations: Mapping[str, Evidence]) -> dict[str, Any]:
    """Everything that the document shows, as plain values."""
    records = _records(evaluations)
    reference = next(iter(evaluations.values()))
    said = [plain_spaces(_said(r, reference)) for r in records if r["metric"].startswith("accuracy_minus_")]
    sources = {label: e.details["provenance"] for label, e in evaluations.items()}
    head = {"schema": REPORT_SCHEMA, "kind": "seeds", "split": reference.split, "evaluations": sources}
    return head | {"words": [*_caveats(evaluations), *said], "records": records}


def document(evaluations: Mapping[str, Evidence]) -> Document:
    """The figures over seeds."""
    records = _records(evaluations)
    reference = next(iter(evaluations.values()))
    words = [
        f"Mean over {len(evaluations)} evaluations ({', '.join(evaluations)}) on the {reference.split} split, sd over "
        "them, and Student's 95 % t interval, which covers the luck of training and of the sample as far as the seeds "
        "changed them. Every model must have been trained anew for each seed. The intervals are not corrected for the "
        "number of comparisons: where there is no difference, one in twenty still excludes 0."
    ]
    main = set(reference.main_places)
    compared = [r for r in records if r["metric"].startswith("accuracy_minus_")]
    findings = [f"{_said(r, reference)}." for r in compared if (r["perturbation"], r["setting"]) in main]
    titles = {
        "accuracy": "accuracy in percent",
        "worst_class_accuracy": "accuracy on the worst class in percent",
        "expected_calibration_error": "expected calibration error in points",
        "negative_log_likelihood": "negative log-likelihood in nats",
        "brier_score": "Brier score",
    }
    tables = [_table(metric, title, records, reference) for metric, title in titles.items()]
    differences = list(dict.fromkeys(r["metric"] for r in compared))
    pairs = [
        _table(metric, f"accuracy minus that of {metric.removeprefix('accuracy_minus_')} in points", records, reference)
        for metric in differences
    ]
    return Document(
        "Several seeds: " + str(reference.details["provenance"].get("data", "unnamed data")),
        [*words, *_caveats(evaluations)],
        [
            Section("What is averaged", (), [sample_words(label, e) for label, e in evaluations.items()]),
            *([Section("Differences", (), findings, [table for table in pairs if table])] if compared else []),
            Section("Figures", (), (), [table for table in tables if table]),
        ],
    )


def _table(metric: str, title: str, records: Sequence[Mapping[str, Any]], reference: Evidence) -> Table | None:
    """Cells by models: mean, sd and interval, times 100."""
    found = {((r["perturbation"], r["setting"]), r["model"]): r for r in records if r["metric"] == metric}
    names = [name for name in reference.styles if any(model == name for _, model in found)]
    places = [at for at in reference.plan("") if any(place == at for place, _ in found)]
    if not found:
        return None
    factor, form = (1.0, ".3f") if metric in SCORES else (100.0, ".1f")
    rows = [[reference.place(at), *(_cell(found.get((at, name)), factor, form) for name in names)] for at in places]
    seeds = next(iter(found.values()))["seeds"]
    caption = f"Mean {title} over {seeds} seeds (sd) [95 % t interval], {reference.split} split."
    return Table(caption, ["Perturbation", *names], rows)


def _cell(record: Mapping[str, Any] | None, factor: float, form: str) -> str:
    if record is None:
        return "-"
    doubt = f" {record['verdict']}" if record["verdict"] in ("WARN", "FAIL") else ""
    mean, sd, low, high = (
        None if record[name] is None else number(factor * record[name], form) for name in ("mean", "sd", "low", "high")
    )
    spread = "" if sd is None else f" ({sd})"
    whole = "" if low is None else f" [{low}, {high}]"
    return f"{mean}{spread}{whole}{doubt}"


def _said(record: Mapping[str, Any], reference: Evidence) -> str:
    """In words whether a mean difference is larger than its spread over seeds."""
    rival = record["metric"].removeprefix("accuracy_minus_")
    where = reference.where((record["perturbation"], record["setting"]))
    size = number(100 * record["mean"], "+.1f")
    doubt = f"; no evidence: masking verdict {record['verdict']}" if record["verdict"] in ("WARN", "FAIL") else ""
    if record["low"] is None:
        return (
            f"{record['model']} minus {rival} {where}: {size} points over {record['seeds']} evaluations; nothing is "
            f"claimed, since the same weights are among them{doubt}"
        )
    low, high = (number(100 * record[end], "+.1f") for end in ("low", "high"))
    evidence = f"{size} points [{low}, {high}] over {record['seeds']} seeds, sd {100 * record['sd']:.1f}"
    if record["low"] > 0 or record["high"] < 0:
        side = "above" if record["mean"] > 0 else "below"
        return f"{record['model']} is {side} {rival} {where}: {evidence}; larger than its uncertainty{doubt}"
    return f"{record['model']} and {rival} are not distinguishable {where}: {evidence}{doubt}"


def _records(evaluations: Mapping[str, Evidence]) -> list[dict[str, Any]]:
    """The merged figures; without spread and interval where some evaluations share weights, which are no new seeds."""
    repeated = _repeated(evaluations)
    records = merge([e.records for e in evaluations.values()])
    for record in records:
        if {record["model"], record["metric"].removeprefix("accuracy_minus_")} & set(repeated):
            record |= {"sd": None, "low": None, "high": None}
    return records


def _repeated(evaluations: Mapping[str, Evidence]) -> dict[str, int]:
    """Models that have the same weights in several evaluations, and how many different sets of weights they have."""
    found = {}
    for name in _shared(evaluations):
        digests = [e.weights(name) for e in evaluations.values() if e.weights(name) is not None]
        if len(set(digests)) < len(digests):
            found[name] = len(set(digests))
    return found


def _shared(evaluations: Mapping[str, Evidence]) -> list[str]:
    """The models that every evaluation has."""
    first = next(iter(evaluations.values()))
    return [name for name in first.styles if all(name in e.styles for e in evaluations.values())]


def _caveats(evaluations: Mapping[str, Evidence]) -> list[str]:
    """Which models are left out, and which have the same weights in several evaluations."""
    shared = _shared(evaluations)
    missing = dict.fromkeys(name for e in evaluations.values() for name in e.styles if name not in shared)
    words = [f"Left out, since not every evaluation has them: {', '.join(missing)}."] if missing else []
    words += [
        f"{name} has {count} set{'' if count == 1 else 's'} of weights in {len(evaluations)} evaluations: no interval "
        "is given for it, since the same weights again are no further seed."
        for name, count in _repeated(evaluations).items()
    ]
    return words


def _counts(record: Mapping[str, Any]) -> bool:
    return record["value"] is not None and record["metric"] not in COUNTED and "_p_against_" not in record["metric"]


def _key(record: Mapping[str, Any]) -> tuple[Any, ...]:
    return record["model"], record["perturbation"], record["setting"], record["metric"]
