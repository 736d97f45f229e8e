"""Several seeds: what is averaged, mean differences, mean figures."""

from collections.abc import Mapping
from typing import Any

from robust_student.report.document.blocks import Block, Findings, Paragraph, Section, Table
from robust_student.report.document.words import number
from robust_student.report.evidence.seeds import Seeds
from robust_student.report.sections.phrases import sample

_TITLES = {
    "accuracy": "accuracy in percent",
    "worst_class_accuracy": "accuracy on the worst class in percent",
    "expected_calibration_error": "expected calibration error in points",
    "negative_log_likelihood": "negative log-likelihood in nats",
    "brier_score": "Brier score",
}
"""The figures that are shown, and what they are called."""
_UNSCALED = ("negative_log_likelihood", "brier_score")
"""Metrics that are shown as they are, not times 100."""


def lead(s: Seeds) -> list[Block]:
    """What the intervals cover, and which models are left out."""
    words = (
        f"Mean over {len(s.evaluations)} evaluations ({', '.join(s.evaluations)}) on the {s.reference.split} split, "
        "sd over them, and Student's 95 % t interval, which covers the luck of training and of the sample as far as "
        "the seeds changed them. Every model must have been trained anew for each seed. The intervals are not "
        "corrected for the number of comparisons: where there is no difference, one in twenty still excludes 0."
    )
    return [Paragraph(words), *map(Paragraph, s.caveats)]


def averaged(s: Seeds) -> Section:
    """The samples."""
    return Section("averaged", "What is averaged", [Findings([sample(label, e) for label, e in s.evaluations.items()])])


def differences(s: Seeds) -> Section | None:
    """Mean differences from the baseline; None where nothing was compared."""
    if not s.differences:
        return None
    main = set(s.reference.main_places)
    findings = [f"{s.sentence(r)}." for r in s.differences if (r["perturbation"], r["setting"]) in main]
    blocks: list[Block] = [Findings(findings)]
    for metric in dict.fromkeys(record["metric"] for record in s.differences):
        blocks += _tables(s, metric, f"accuracy minus that of {metric.removeprefix('accuracy_minus_')} in points")
    return Section("differences", "Differences", blocks)


def figures(s: Seeds) -> Section:
    """Mean accuracies and calibration scores."""
    return Section(
        "figures", "Figures", [table for metric, title in _TITLES.items() for table in _tables(s, metric, title)]
    )


def _tables(s: Seeds, metric: str, title: str) -> list[Table]:
    """Cells by models: mean, sd and interval; no table where nothing was measured."""
    cells = {((r["perturbation"], r["setting"]), r["model"]): r for r in s.records if r["metric"] == metric}
    if not cells:
        return []
    names = [name for name in s.reference.names if any(model == name for _, model in cells)]
    places = [at for at in s.reference.plan() if any(place == at for place, _ in cells)]
    factor, form = (1.0, ".3f") if metric in _UNSCALED else (100.0, ".1f")
    rows = [[s.reference.place(at), *(_cell(cells.get((at, name)), factor, form) for name in names)] for at in places]
    seeds = next(iter(cells.values()))["seeds"]
    caption = f"Mean {title} over {seeds} seeds (sd) [95 % t interval], {s.reference.split} split."
    return [Table(caption, ["Perturbation", *names], rows, "dense")]


def _cell(record: Mapping[str, Any] | None, factor: float, form: str) -> str:
    if record is None:
        return "–"
    doubt = f" {record['verdict']}" if record["verdict"] in ("WARN", "FAIL") else ""
    mean, sd, low, high = (
        None if record[name] is None else number(factor * record[name], form) for name in ("mean", "sd", "low", "high")
    )
    spread = "" if sd is None else f" ({sd})"
    whole = "" if low is None else f" [{low}, {high}]"
    return f"{mean}{spread}{whole}{doubt}"
