"""Paired differences: each model minus the baseline on the very same examples."""

from collections.abc import Sequence

from robust_student.report.document.blocks import (
    Block,
    Bold,
    Findings,
    Folded,
    Paragraph,
    Section,
    Small,
    Table,
    Text,
    Value,
)
from robust_student.report.document.words import badge, who
from robust_student.report.evidence.evaluation import Evidence, Place
from robust_student.report.sections.phrases import signed
from robust_student.results.comparison import p_text


def differences(e: Evidence) -> Section:
    """In words for the main cells, in numbers for every cell."""
    blocks: list[Block] = [Paragraph("No baseline was given, so nothing was compared pair by pair.")]
    if e.others:
        words = (
            "Each model minus ",
            Bold(str(e.baseline)),
            f" on the very same {e.split} examples, in percentage points.",
        )
        findings = [f"{e.sentence(name, at)}." for name in e.others for at in e.main_places]
        blocks = [Paragraph(words), Findings(findings, "words"), _note(e), _table(e, e.plain_plan)]
        corruptions = e.plan("corruption")
        blocks += [Folded("Corruptions", [_table(e, corruptions)])] if corruptions else []
    return Section("differences", "Paired differences", blocks, short="Differences")


def _note(e: Evidence) -> Paragraph:
    if any(record["metric"] == f"holm_p_against_{e.baseline}" for record in e.records):
        meaning = (
            "Larger than its uncertainty means that the 95\u00a0% bootstrap interval excludes 0 and that McNemar’s "
            "exact test, corrected by Holm’s method for all comparisons made together, has p\u00a0≤\u00a00.05: the "
            "chance that even one such claim on this page is an accident of the sample is at most 5\u00a0% "
            "(corruptions are corrected among themselves)."
        )
    else:
        meaning = (
            "No test was recorded: it means that the 95\u00a0% interval excludes 0. Many settings are compared at "
            "once: where there is no true difference, about one interval in twenty still excludes 0."
        )
    return Paragraph(f"▲ and ▼: larger than its uncertainty; ○: not shown. {meaning}", "note")


def _table(e: Evidence, places: Sequence[Place]) -> Table:
    caption = (
        f"95\u00a0% bootstrap intervals over the {e.split} examples; p: McNemar’s exact test after Holm’s correction."
    )
    if e.alarms:
        caption += (
            " ✕: the masking verdict of the model is not PASS, or that of the baseline is FAIL, so the difference "
            "under attack is no evidence; a gain over a baseline with WARN stands, for the baseline can only be "
            "weaker than measured."
        )
    models: list[Text] = [
        (who(name), " ", badge(e.masking(name))) if name in e.alarms else who(name) for name in e.others
    ]
    rows = [[e.place(at), e.counts(at), *(_cell(e, name, at) for name in e.others)] for at in places]
    return Table(caption, ["Perturbation", "n", *models], rows)


def _cell(e: Evidence, name: str, at: Place) -> Text:
    p = e.get(name, f"holm_p_against_{e.baseline}", *at)
    adjusted = None if p is None else p["value"]
    tested: Text = "" if adjusted is None else (" ", Small([Value(adjusted, p_text(adjusted))]))
    return signed(e, name, at), tested
