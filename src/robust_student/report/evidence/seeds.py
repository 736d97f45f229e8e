"""Several seeds: figures of models of the same names averaged over evaluations, with the spread over seeds."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from robust_student.core.errors import UserError
from robust_student.report.document.words import number
from robust_student.report.evidence.evaluation import REPORT_SCHEMA, Evidence
from robust_student.results.intervals import mean_of_runs

_SHARES = ("accuracy", "worst_class_accuracy", "mean_corruption_accuracy")
"""Metrics whose intervals over seeds are cut at 0 and 1."""
_COUNTED = ("parameters", "macs", "file_size", "latency", "excluded_examples")
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
        records_of_seeds = [table[key] for table in tables if key in table]
        if len(records_of_seeds) < len(tables):
            continue
        values = [float(r["value"]) for r in records_of_seeds]
        mean, low, high = mean_of_runs(values)
        if first["metric"] in _SHARES:
            low, high = max(low, 0.0), min(high, 1.0)
        verdicts = {r["verdict"]["level"] for r in records_of_seeds if r["verdict"]}
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
    if not Seeds(evaluations).shared:
        raise UserError(
            f"report: {', '.join(evaluations)} have no model of the same name, so there is nothing to average"
        )


@dataclass(frozen=True)
class Seeds:
    """Evaluations by name, in which models of the same names were trained with other seeds."""

    evaluations: Mapping[str, Evidence]

    @property
    def reference(self) -> Evidence:
        """The first evaluation."""
        return next(iter(self.evaluations.values()))

    @cached_property
    def records(self) -> list[dict[str, Any]]:
        """The merged figures; without spread and interval where weights are shared, which are no new seeds."""
        records = merge([e.records for e in self.evaluations.values()])
        for record in records:
            if {record["model"], record["metric"].removeprefix("accuracy_minus_")} & set(self.repeated):
                record |= {"sd": None, "low": None, "high": None}
        return records

    @property
    def differences(self) -> list[dict[str, Any]]:
        """The merged differences of accuracy."""
        return [record for record in self.records if record["metric"].startswith("accuracy_minus_")]

    @cached_property
    def repeated(self) -> dict[str, int]:
        """Models with the same weights in several evaluations, and how many different sets of weights they have."""
        counts = {}
        for name in self.shared:
            digests = [e.weights(name) for e in self.evaluations.values() if e.weights(name) is not None]
            if len(set(digests)) < len(digests):
                counts[name] = len(set(digests))
        return counts

    @property
    def shared(self) -> list[str]:
        """The models that every evaluation has."""
        return [name for name in self.reference.names if all(name in e.styles for e in self.evaluations.values())]

    @property
    def caveats(self) -> list[str]:
        """Which models are left out, and which have the same weights in several evaluations."""
        missing = dict.fromkeys(name for e in self.evaluations.values() for name in e.names if name not in self.shared)
        words = [f"Left out, since not every evaluation has them: {', '.join(missing)}."] if missing else []
        words += [
            f"{name} has {count} set{'' if count == 1 else 's'} of weights in {len(self.evaluations)} evaluations: no "
            "interval is given for it, since the same weights again are no further seed."
            for name, count in self.repeated.items()
        ]
        return words

    def sentence(self, record: Mapping[str, Any]) -> str:
        """In words whether a mean difference is larger than its spread over seeds."""
        return _sentence(record, self.reference)

    def values(self) -> dict[str, Any]:
        """Every figure as plain values (docs/results-format.md)."""
        sources = {label: e.details["provenance"] for label, e in self.evaluations.items()}
        head = {"schema": REPORT_SCHEMA, "kind": "seeds", "split": self.reference.split, "evaluations": sources}
        sentences = [self.sentence(record).replace("\u00a0", " ") for record in self.differences]
        return head | {"words": [*self.caveats, *sentences], "records": self.records}


def _sentence(record: Mapping[str, Any], reference: Evidence) -> str:
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


def _counts(record: Mapping[str, Any]) -> bool:
    return record["value"] is not None and record["metric"] not in _COUNTED and "_p_against_" not in record["metric"]


def _key(record: Mapping[str, Any]) -> tuple[Any, ...]:
    return record["model"], record["perturbation"], record["setting"], record["metric"]
