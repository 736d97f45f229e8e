"""Calibration: does a model know when it is wrong?"""

from collections.abc import Sequence
from functools import partial

from robust_student.report.document.blocks import (
    Block,
    Figure,
    Folded,
    Grid,
    Group,
    Legend,
    Paragraph,
    Section,
    Table,
    Text,
)
from robust_student.report.document.figures import confidence_figure, reliability_figure
from robust_student.report.document.words import score
from robust_student.report.evidence.evaluation import Evidence, Place
from robust_student.report.sections.phrases import heads

_SCORES = {
    "ECE": ("expected_calibration_error", 100.0, ".1f"),
    "NLL": ("negative_log_likelihood", 1.0, ".3f"),
    "Brier": ("brier_score", 1.0, ".3f"),
}
"""Metric, factor and form of each figure."""


def calibration(e: Evidence) -> Section:
    """Reliability diagrams of the main cells, and the scores of every noise level."""
    if not e.calibrated:
        old = Paragraph("No confidences were recorded: this evaluation was made by an older version.")
        return Section("calibration", "Calibration", [old])
    words = (
        "Does a model know when it is wrong? Of the answers it gives with 80\u00a0% confidence, 80\u00a0% should be "
        "right: then its line lies on the diagonal. Below it, the model is too sure of itself."
    )
    note = (
        "Plots: 15 bins of equal width; the reliability diagram leaves out bins of fewer than 5 examples. "
        f"n\u00a0=\u00a0{e.counts(e.calibrated[0])} {e.split} examples."
    )
    blocks: list[Block] = [Paragraph(words), Legend(e.styles), *(_figures(e, at) for at in e.calibrated)]
    blocks.append(_scores(e, e.calibrated))
    levels = e.plan("noise", "gaussian")
    blocks += [Folded("All noise levels", [_scores(e, levels)])] if levels else []
    return Section("calibration", "Calibration", [*blocks, Paragraph(note, "note")])


def _figures(e: Evidence, at: Place) -> Grid:
    bins, name = e.bins(at), f"{at[0]}-{'' if at[1] is None else f'{at[1]:g}'}".replace(".", "_")
    line, models = "a line for each of", ", ".join(e.names)
    return Grid(
        [
            Figure(
                f"{e.place(at)}: reliability",
                partial(reliability_figure, bins, e.styles, f"reliability-{name}"),
                f"Accuracy against confidence in 15 bins, {line} {models}.",
            ),
            Figure(
                f"{e.place(at)}: confidence",
                partial(confidence_figure, bins, e.styles, f"confidence-{name}"),
                f"Share of examples in each of 15 bins of confidence, {line} {models}.",
            ),
        ]
    )


def _scores(e: Evidence, places: Sequence[Place]) -> Table:
    caption = (
        f"95\u00a0% bootstrap intervals over the {e.split} examples; smaller is better. ECE: mean distance of "
        "accuracy from confidence over 15 equal bins, in points; biased upwards on few examples, so even a perfectly "
        "calibrated model does not get 0. NLL: mean of −log p(true class), in nats. Brier: mean squared distance of "
        "the probabilities from the truth, from 0 to 2."
    )
    groups = [Group(e.place(at), [_row(e, at, title) for title in _SCORES]) for at in places]
    return Table(caption, heads("Figure", e.names), [], "stacked", groups)


def _row(e: Evidence, at: Place, title: str) -> list[Text]:
    metric, factor, form = _SCORES[title]
    return [title, *(score(e.get(name, metric, *at), factor, form) for name in e.names)]
