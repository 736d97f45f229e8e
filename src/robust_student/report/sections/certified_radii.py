"""Certified, estimated and attacked radii: every example between its bounds, the share that stands, and numbers."""

from functools import partial
from typing import Literal

from robust_student.report.document.blocks import (
    Block,
    Bold,
    Figure,
    Grid,
    Group,
    Heading,
    Legend,
    Mark,
    Paragraph,
    Section,
    Small,
    Subscript,
    Table,
    Text,
    Value,
)
from robust_student.report.document.figures import SIDES, Style, sandwich_figure, standing_figure
from robust_student.report.document.words import NONE, accuracy, interval, length, n_examples, norm, number, radius
from robust_student.report.evidence.certificates import Certificates
from robust_student.report.sections.certified_phrases import (
    as_record,
    between,
    budget_column,
    budgets,
    heads_with_roles,
    label,
)
from robust_student.report.sections.phrases import model
from robust_student.results.perturbation import Meaning

_SIDE_STYLES = {
    "certified": Style(SIDES["certified"][0], "o", (), 2.0),
    "attack": Style(SIDES["attack"][0], "s", (5.0, 2.0), 1.6),
}
_NOUNS = {"decision": "decides rightly", "confidence": "stays as sure of the true class as the teacher is"}


def standing(c: Certificates) -> Section | None:
    """One side of every model over the radius; None where there is one model only."""
    if len(c.names) < 2:
        return None
    title = "Certified accuracy over the radius"
    plots = [plot for plot in (_overview(c, "certified"), _overview(c, "attack")) if plot]
    if not plots:
        return Section("standing", title, [Paragraph("Nothing was certified or attacked.")], short="Certified accuracy")
    words = (
        "First plot: the share of examples on which the right decision is proved to stand up to radius r (at least). "
        "Second plot: the share that attacks have not broken up to r (at most). The truth of each model lies between "
        "its two lines."
    )
    note: list[Text] = [
        f"Bands: 95\u00a0% Wilson intervals; dotted lines: the budgets {budgets(c)}. Each model’s two lines are on "
        "the same examples: "
    ]
    for name in c.names:
        count = len(c.brackets.get((name, "decision"), {}))
        note += [Bold(name), f" {n_examples(count)}{'.' if name == c.names[-1] else '; '}"]
    blocks: list[Block] = [Paragraph(words), Legend(c.styles), Grid(plots), Paragraph(tuple(note), "note")]
    return Section("standing", title, blocks, short="Certified accuracy")


def sandwich(c: Certificates) -> Section:
    """Every example of every model between its bounds."""
    title = "Each example between its bounds: the decision"
    return Section("sandwich", title, [*_reading(c), *_plots(c, "decision")], short="Each example")


def bounds(c: Certificates) -> Section:
    """The radii of the decision in numbers."""
    return Section("bounds", "Radii of the decision in numbers", _tables(c, "decision"), short="Radii")


def confidence(c: Certificates) -> Section | None:
    """The same for bound B; None where no radius of the confidence was measured."""
    if not c.measured("confidence"):
        return None
    left_out: Text = ""
    if c.teacher in c.styles:
        why = " itself is left out: it is exactly as sure as itself, so its radius is 0."
        left_out = (" ", Bold(c.teacher), why)
    words = (
        "Stricter than the decision: does the student stay at least as sure of the true class as the teacher is on the "
        "clean input, S",
        *(
            Subscript("y"),
            "(x\u00a0+\u00a0d)\u00a0≥\u00a0T",
            Subscript("y"),
            "(x)? Where it is less sure to begin with, ",
        ),
        "the radius is 0 and nothing can be certified; a share far below 100\u00a0% is therefore no failure of the "
        "certificates.",
        left_out,
    )
    blocks = [Paragraph(words), _confident(c), *_reading(c), *_plots(c, "confidence")]
    blocks += [Heading("In numbers"), *_tables(c, "confidence")]
    return Section("confidence", "The confidence (bound B)", blocks, short="Confidence")


def _confident(c: Certificates) -> Table:
    surer = ("S", Subscript("y"), "\u00a0>\u00a0T", Subscript("y"))
    caption = (
        *("Share of examples whose student is surer of the true class than the teacher at x, ", surer),
        " (only there a radius above 0 is possible), and share that keeps S",
        *(Subscript("y"), "\u00a0≥\u00a0T", Subscript("y")),
        " under every perturbation within the budget: from certified to not broken by an attack, with outer ends of "
        "the 95\u00a0% Wilson intervals.",
    )
    rows = [
        [
            model(c, name),
            accuracy(as_record(c.possible(name))),
            *(between(c.between(name, "confidence", budget)) for budget in c.budgets),
        ]
        for name in c.named("confidence")
    ]
    head: list[Text] = ["Model", (*surer, " at x"), *(budget_column(c, budget) for budget in c.budgets)]
    return Table(caption, head, rows, "stacked")


def _overview(c: Certificates, side: Literal["certified", "attack"]) -> Figure | None:
    """One side of every model over the radius; None where nobody has it."""
    grid = c.grid("decision")
    models = {name: c.sides(name, "decision", grid) for name in c.names}
    curves = [(c.styles[name], sides[side]) for name, sides in models.items() if side in sides]
    if not curves:
        return None
    proved, names = side == "certified", ", ".join(c.names)
    axis = "certified (%)" if proved else "not broken by an attack (%)"
    draw = partial(standing_figure, curves, grid, c.budgets, c.norm, axis, f"overview-{side}-decision")
    what = "Certified accuracy" if proved else "Share of examples not broken by an attack"
    words = f"{what} against the radius, a line for each of {names}."
    return Figure("Certified: at least" if proved else "Under attack: at most", draw, words)


def _reading(c: Certificates) -> list[Block]:
    """How the plots of one model are read."""
    key = Legend(
        swatches=[
            ("certified", "certified (guarantee): the radius is at least this"),
            ("attack", "attack (upper bound): the smallest perturbation found"),
            ("band", "between: the true radius lies here"),
            ("sampled", "sampled (not a guarantee)"),
            ("estimated", "estimated (not a guarantee)"),
        ]
    )
    note = (
        "Radius of each example: every example takes one step along the axis, sorted by its certified radius and, "
        "where that is the same, by the attack’s; every plot has a vertical axis of its own, and what lies above it "
        "is drawn at its upper edge. Share that stands: certified share (line) and share not broken by an attack "
        f"(dashed) with 95\u00a0% Wilson bands; dotted lines are the budgets {budgets(c)}."
    )
    return [key, Paragraph(note, "note")]


def _plots(c: Certificates, meaning: Meaning) -> list[Block]:
    blocks: list[Block] = []
    for name in c.named(meaning):
        if (name, meaning) in c.brackets:
            count = len(c.brackets[name, meaning])
            blocks += [
                Heading(name, c.styles[name].color),
                Grid([_examples(c, name, meaning), _shares(c, name, meaning)]),
            ]
            blocks.append(Paragraph(f"{n_examples(count)} {c.split} examples.", "note"))
    return blocks or [Paragraph("Neither certified nor attacked.")]


def _examples(c: Certificates, name: str, meaning: Meaning) -> Figure:
    examples = list(c.brackets[name, meaning].values())
    draw = partial(sandwich_figure, examples, c.norm, f"sandwich-{meaning}-{c.names.index(name)}")
    words = (
        f"Certified, sampled and estimated {meaning} radius of each of {len(examples)} examples of {name} and the "
        "smallest perturbation an attack found."
    )
    return Figure("Radius of each example", draw, words)


def _shares(c: Certificates, name: str, meaning: Meaning) -> Figure:
    grid, unique = c.grid(meaning), f"standing-{meaning}-{c.names.index(name)}"
    curves = [(_SIDE_STYLES[side], curve) for side, curve in c.sides(name, meaning, grid).items()]
    draw = partial(standing_figure, curves, grid, c.budgets, c.norm, "examples that stand (%)", unique)
    words = (
        f"Share of examples of {name} certified at radius r, and share not broken by an attack up to r; the numbers "
        "at the budgets are in the tables."
    )
    return Figure("Share that stands", draw, words)


def _tables(c: Certificates, meaning: Meaning) -> list[Block]:
    """Medians and violations, shares at the budgets, ratios to the baseline."""
    baseline, names = c.baseline, c.named(meaning)
    rivals = [name for name in names if name != baseline] if baseline in names else []
    tables: list[Block] = [_medians(c, meaning, names), _at_budgets(c, meaning, names)]
    return [*tables, _ratios(c, meaning, rivals)] if rivals else tables


def _medians(c: Certificates, meaning: Meaning, names: list[str]) -> Table:
    caption = (
        f"Median {meaning} radius ({norm(c.norm)}, input units) with its 95\u00a0% interval from order statistics. "
        "Slow methods were run on fewer examples: compare where n is the same. “Best” is the largest of the methods, "
        "on the examples that every method was run on. Violations: examples whose certified radius is above the "
        "smallest perturbation found; it must be 0."
    )
    rows: list[list[Text]] = [
        [label(c, kind), *(radius(c.get(name, f"median_{kind}")) for name in names)] for kind in c.kinds(meaning)
    ]
    rows.append(["violations", *(_violations(c, name, meaning) for name in names)])
    return Table(caption, heads_with_roles(c, "Median radius", names), rows, "stacked")


def _violations(c: Certificates, name: str, meaning: Meaning) -> Text:
    count = c.violations.get((name, meaning))
    if count is None or count["value"] is None:
        return Mark("none", "not checked")
    return Value(count["value"], number(count["value"], ".0f")), " ", Small([f"of {count['n']:,}"])


def _at_budgets(c: Certificates, meaning: Meaning, names: list[str]) -> Table:
    caption = (
        f"Share of examples on which the model {_NOUNS[meaning]} under every perturbation within the budget, by "
        "certificate (at least) and by attack (at most), with 95\u00a0% Wilson intervals."
    )
    kinds = [kind for kind in c.kinds(meaning) if kind.startswith(("certified_", "attack_"))]
    groups = [
        Group(
            budget_column(c, budget),
            [[label(c, kind), *(accuracy(c.share(name, kind, budget)) for name in names)] for kind in kinds],
        )
        for budget in c.budgets
    ]
    return Table(caption, heads_with_roles(c, "Share that stands", names), [], "stacked", groups)


def _ratios(c: Certificates, meaning: Meaning, rivals: list[str]) -> Table:
    baseline = str(c.baseline)
    caption = (
        *(f"Median {meaning} radius divided by that of ", Bold(baseline)),
        " on the same examples, with 95\u00a0% bootstrap intervals; – where the baseline’s median is 0. An estimate "
        "that grows while the certificates and attacks do not is no gain.",
    )
    rows = [
        [label(c, kind), *(_ratio(c, name, f"median_{kind}_over_{baseline}") for name in rivals)]
        for kind in c.kinds(meaning)
    ]
    return Table(caption, heads_with_roles(c, "Ratio of medians", rivals), rows, "stacked")


def _ratio(c: Certificates, name: str, metric: str) -> Text:
    ratio = c.get(name, metric)
    if ratio is None or ratio["value"] is None:
        return NONE
    return length(ratio["value"]), "× ", Small([interval(ratio, 1.0, ".3g"), n_examples(ratio["n"])])
