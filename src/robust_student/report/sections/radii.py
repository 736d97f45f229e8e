"""Estimated radii: their distribution and medians. Not a guarantee."""

import math
from dataclasses import dataclass
from functools import partial

from robust_student.report.document.blocks import Block, Bold, Figure, Grid, Legend, Paragraph, Section, Table
from robust_student.report.document.figures import radius_figure
from robust_student.report.document.words import norm, radius
from robust_student.report.evidence.evaluation import Evidence
from robust_student.report.sections.phrases import heads
from robust_student.results.perturbation import NORMS, Perturbation
from robust_student.results.radii import MEANINGS


@dataclass(frozen=True)
class RadiusKind:
    """A meaning and a norm, with every model's estimated radii."""

    meaning: str
    norm: str
    radii: dict[str, list[float]]

    @property
    def title(self) -> str:
        """The kind for people."""
        return f"{self.meaning} radius, {norm(self.norm)}"

    @property
    def infinite(self) -> dict[str, int]:
        """How many radii of each model are infinite."""
        return {name: sum(map(math.isinf, values)) for name, values in self.radii.items()}


def radii(e: Evidence) -> Section:
    """The share of examples with a larger radius, a plot for each kind, and the medians."""
    title, measured = "Estimated radii", kinds(e)
    if not measured:
        return Section("radii", title, [Paragraph("No radius was estimated.")])
    words = (
        "How large a change of the input would it take? The ",
        Bold("decision"),
        " radius estimates the smallest change that alters the predicted class, the ",
        Bold("confidence"),
        " radius the smallest one that makes the model less sure of the true class than the teacher is; where the "
        "model is wrong, or less sure to begin with, it is 0. Both are estimated (first order at x, from the "
        "gradient at the example alone): not a guarantee.",
    )
    note = (
        f"n\u00a0=\u00a0{e.details['sample']['attacked']:,} {e.split} examples; the curve is one minus the empirical "
        "distribution, higher is better; the axis ends where 98\u00a0% of the finite radii lie. Estimated (first "
        f"order at x), not a guarantee. Infinite estimates (no slope at x): {_infinite(measured)}."
    )
    blocks: list[Block] = [Paragraph(words), Legend(e.styles), Grid([_figure(e, kind) for kind in measured])]
    blocks += [Paragraph(note, "note"), _medians(e, measured)]
    return Section("radii", title, blocks)


def kinds(e: Evidence) -> list[RadiusKind]:
    """The kinds of radius that were estimated."""
    measured_kinds = []
    for meaning in MEANINGS:
        for name in NORMS:
            every = {model: e.radii(model, str(Perturbation.radius("estimated", meaning, name))) for model in e.names}
            measured = {model: values for model, values in every.items() if values}
            measured_kinds += [RadiusKind(meaning, name, measured)] if measured else []
    return measured_kinds


def _figure(e: Evidence, kind: RadiusKind) -> Figure:
    words = (
        f"Share of examples whose estimated {kind.meaning} radius is larger than r, a line for each of "
        f"{', '.join(kind.radii)}."
    )
    draw = partial(radius_figure, kind.radii, e.styles, kind.norm, f"estimated_{kind.meaning}_radius_{kind.norm}")
    return Figure(f"Estimated {kind.title}", draw, words)


def _infinite(measured: list[RadiusKind]) -> str:
    counts = [", ".join(f"{name} {n}" for name, n in kind.infinite.items() if n) or "none" for kind in measured]
    return "; ".join(f"{kind.meaning} {norm(kind.norm)}: {count}" for kind, count in zip(measured, counts, strict=True))


def _medians(e: Evidence, measured: list[RadiusKind]) -> Table:
    rows = [
        [
            f"median estimated {kind.title}",
            *(radius(e.get(name, f"median_estimated_{kind.meaning}_radius_{kind.norm}")) for name in e.names),
        ]
        for kind in measured
    ]
    caption = f"Median over the {e.split} examples with its 95\u00a0% interval from order statistics, in input units."
    return Table(caption, heads("Estimated, not a guarantee", e.names), rows, "stacked")
