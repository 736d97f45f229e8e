"""Accuracy by true class: a good mean can hide a class that fails."""

from collections.abc import Sequence

from robust_student.report.document.blocks import (
    Bar,
    Block,
    Bold,
    Folded,
    Group,
    Heading,
    Paragraph,
    Section,
    Table,
    Text,
)
from robust_student.report.document.words import NONE, NOT_MEASURED, accuracy
from robust_student.report.evidence.evaluation import Evidence, Place
from robust_student.report.sections.confusions import as_record, confusions
from robust_student.report.sections.phrases import heads

_SHOWN = 20
"""The hardest classes that are shown at once; the others are folded away."""


def classes(e: Evidence) -> Section:
    """The main cells class by class, hardest class first."""
    blocks: list[Block] = [Paragraph("No accuracy was measured.")]
    if e.main_places and e.breakdown:
        words = (
            "A good mean can hide a class that fails. The worst class is chosen by these very numbers, which makes it "
            "look worse than it is; the intervals (95\u00a0%, Wilson) do not know that."
        )
        blocks = [Paragraph(words), _balanced(e)]
        for at in e.main_places:
            blocks += [Heading(e.place(at)), *_tables(e, at)]
            if at in (("none", None), e.strongest):
                blocks += confusions(e, at)
    return Section("classes", "Accuracy by class", blocks, short="Classes")


def _balanced(e: Evidence) -> Table:
    """Accuracy beside balanced accuracy in the main cells."""
    groups = []
    for at in e.main_places:
        plain = [accuracy(e.get(name, "accuracy", *at), e.mark(name, at)) for name in e.names]
        balanced = [_balanced_cell(e, name, at) for name in e.names]
        groups.append(Group(e.place(at), [["Accuracy", *plain], ["Balanced accuracy", *balanced]]))
    uneven = any((confusion := e.confusion(name, ("none", None))) and confusion.unbalanced for name in e.names)
    words = (
        "Classes are unbalanced here: read the balanced one. "
        if uneven
        else "Classes are about equally frequent here, so both are alike. "
    )
    caption = (
        f"On the {e.split} split. Balanced: the mean of the classes’ accuracies, so that one answer for everything is "
        f"worth one class in {len(e.by_class(('none', None)))}. {words}Intervals: Wilson, 95\u00a0%, the balanced one "
        "at the number of examples that is worth as much."
    )
    return Table(caption, heads("Figure", e.names), [], "stacked", groups)


def _balanced_cell(e: Evidence, name: str, at: Place) -> Text:
    confusion = e.confusion(name, at)
    if confusion is None:
        return NOT_MEASURED
    return accuracy(as_record(confusion.balanced_accuracy(), sum(map(sum, confusion.counts))), e.mark(name, at))


def _tables(e: Evidence, at: Place) -> list[Block]:
    labels = list(e.by_class(at))
    hardest = f"; the {_SHOWN} hardest of {len(labels)} classes" if len(labels) > _SHOWN else ""
    caption: list[Text] = [
        f"Accuracy by true class on the {e.split} split, hardest class first{hardest}. In bold: each model’s worst "
        "class."
    ]
    for name in e.names:
        end = "." if name == e.names[-1] else ";"
        caption += [f" {name}: worst class ", accuracy(e.get(name, "worst_class_accuracy", *at)), end]
    tables: list[Block] = [Table(tuple(caption), heads("Class", e.names), _rows(e, at, labels[:_SHOWN]), "bars")]
    if labels[_SHOWN:]:
        others = f"{e.place(at)}: the other {len(labels) - _SHOWN} classes"
        table = Table(
            f"{others}, on the {e.split} split.", heads("Class", e.names), _rows(e, at, labels[_SHOWN:]), "bars"
        )
        tables.append(Folded(others, [table]))
    return tables


def _rows(e: Evidence, at: Place, labels: Sequence[int]) -> list[list[Text]]:
    by_class = e.by_class(at)
    worst = {name: e.worst_class(name, at) for name in e.names}
    rows: list[list[Text]] = []
    for label in labels:
        cells: list[Text] = []
        for name in e.names:
            record = by_class[label].get(name)
            if record is None:
                cells.append(NONE)
                continue
            cell = accuracy(record, e.mark(name, at))
            share, *rest = cell if isinstance(cell, tuple) else (cell,)
            cells.append(
                (Bar(record["value"], e.styles[name].color), Bold(share) if label == worst[name] else share, *rest)
            )
        rows.append([e.class_name(label), *cells])
    return rows
