"""Accuracy under corruptions, a heat map for each model."""

from robust_student.report.document.blocks import Block, Heading, Paragraph, Section, Shade, Table, Text, Value
from robust_student.report.document.words import NONE, NOT_MEASURED, accuracy, number, share
from robust_student.report.evidence.evaluation import Evidence
from robust_student.results.perturbation import Perturbation


def corruptions(e: Evidence) -> Section | None:
    """Kinds by severities; None where no corruption was measured."""
    if not e.corruptions:
        return None
    words = (
        f"Everyday damage to the {e.split} images, from weak (left) to strong (right): accuracy in percent, darker is "
        "better. Mean: over all kinds and severities. Relative drop: the share of clean accuracy that is lost."
    )
    blocks: list[Block] = [Paragraph(words)]
    for name in e.names:
        blocks += [Heading(name, e.styles[name].color), _table(e, name)]
    return Section("corruptions", "Accuracy under corruptions", blocks, short="Corruptions")


def _table(e: Evidence, name: str) -> Table:
    drop = e.overall(name, "relative_corruption_drop")
    caption = (
        *("Mean corruption accuracy: ", accuracy(e.overall(name, "mean_corruption_accuracy")), "; relative drop: "),
        NOT_MEASURED if drop is None or drop["value"] is None else share(drop["value"]),
        f". Cells: accuracy in percent on the {e.split} split, n\u00a0=\u00a0{e.counts(e.plan('corruption')[0])}; "
        "interval when pointed at.",
    )
    rows = [
        [
            kind.replace("_", " "),
            *(_cell(e, name, str(Perturbation("corruption", kind)), severity) for severity in e.severities),
        ]
        for kind in e.corruptions
    ]
    return Table(caption, ["Corruption", *(number(severity, "g") for severity in e.severities)], rows, "heat")


def _cell(e: Evidence, name: str, kind: str, severity: float) -> Text:
    record = e.get(name, "accuracy", kind, severity)
    if record is None or record["value"] is None:
        return NONE
    more = ""
    if record["low"] is not None and record["high"] is not None:
        ends = ", ".join(number(100 * end, ".1f") for end in (record["low"], record["high"]))
        more = f"[{ends}], n = {record['n']}"
    return Shade(Value(record["value"], number(100 * record["value"], ".1f")), more)
