"""The models side by side: size, speed, and the main accuracies."""

from robust_student.report.document.blocks import Link, Section, Table, Text, Value
from robust_student.report.document.words import NONE, accuracy, badge, compact, norm, number, radius
from robust_student.report.evidence.evaluation import Evidence
from robust_student.report.sections.phrases import model

_COSTS = {"parameters": "Parameters", "macs": "MACs", "file_size": "File size", "latency": "Latency"}


def models(e: Evidence) -> Section:
    """A line for each model."""
    noise = ("gaussian_snr_db", e.level)
    attack = e.place(e.strongest) if e.strongest[1] is not None else "AutoAttack"
    median = "Median estimated decision radius" + (f", {norm(e.radius_norm)}" if e.radius_norm else "")
    head = ["Model", *_COSTS.values(), "Clean", e.place(noise), attack, "Masking", median]
    rows = [
        [
            model(e, name),
            *(_cost(e, name, metric) for metric in _COSTS),
            accuracy(e.get(name, "accuracy")),
            accuracy(e.get(name, "accuracy", *noise)),
            accuracy(e.get(name, "accuracy", *e.strongest)),
            badge(e.masking(name)),
            radius(e.get(name, f"median_estimated_decision_radius_{e.radius_norm}")),
        ]
        for name in e.names
    ]
    hardware = e.details["provenance"].get("hardware", "unknown hardware")
    caption = (
        f"Accuracy in percent with its 95\u00a0% Wilson interval and number of {e.split} examples n. Size and speed "
        f"are of one example ({hardware}; latency is the median of repeated calls). The radius is estimated (first "
        "order, at each example): not a guarantee. Masking verdict: may the figures under attack be believed? (",
        Link("masking", "details"),
        ")",
    )
    return Section("models", "The models side by side", [Table(caption, head, rows, "cards")], short="Models")


def _cost(e: Evidence, name: str, metric: str) -> Text:
    record = e.get(name, metric)
    if record is None or record["value"] is None:
        return NONE
    value = record["value"]
    if metric == "latency":
        return Value(value, number(value)), "\u00a0ms"
    if metric == "file_size":
        return Value(value, number(value / 1000, ".1f")), "\u00a0kB"
    return Value(value, compact(value))
