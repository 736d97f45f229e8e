"""What is taken for what: recall, precision and F1 of every class, and the confusion matrices, of one cell."""

import math
from functools import partial

from robust_student.report.document.blocks import (
    Block,
    Figure,
    Folded,
    Grid,
    Group,
    Heading,
    Mark,
    Paragraph,
    Shade,
    Table,
    Text,
    Value,
)
from robust_student.report.document.confusion_figure import confusion_figure
from robust_student.report.document.words import NONE, accuracy, number, share
from robust_student.report.evidence.evaluation import Evidence, Place
from robust_student.report.sections.phrases import model
from robust_student.results.class_measures import Confusion
from robust_student.results.intervals import Estimate

_IN_NUMBERS = 12
"""Classes up to which a confusion matrix is a table; a larger one is drawn, with a table of the largest entries."""
_LARGEST = 10
"""Confusions that such a table shows."""


def confusions(e: Evidence, at: Place) -> list[Block]:
    """Both, folded away, of the models that were measured in a cell."""
    measured = {name: confusion for name in e.names if (confusion := e.confusion(name, at)) and confusion.classes}
    if not measured:
        return []
    place = e.place(at)
    return [
        Folded(f"{place}: recall, precision and F1", [_measures(e, measured)]),
        Folded(f"{place}: what is taken for what", _matrices(e, measured)),
    ]


def as_record(estimate: Estimate, n: int) -> dict[str, float | int | None]:
    """An estimate as the records that words are made of; numbers that are NaN are None."""
    value, low, high = (None if math.isnan(end) else end for end in estimate)
    return {"value": value, "low": low, "high": high, "n": n}


def _measures(e: Evidence, measured: dict[str, Confusion]) -> Table:
    caption = (
        f"On the {e.split} split. Recall: share of the class’s examples that are decided rightly. Precision: share of "
        "the answers that name the class rightly. Both with 95\u00a0% Wilson intervals; n: examples of the class, "
        "answers that name it. F1: their harmonic mean, without an interval."
    )
    groups = []
    for name, confusion in measured.items():
        rows: list[list[Text]] = [
            [
                _named(e, each.label, confusion),
                accuracy(as_record(each.recall, each.n)),
                NONE if each.answered == 0 else accuracy(as_record(each.precision, each.answered)),
                share(each.f1),
            ]
            for each in confusion.measures()
        ]
        groups.append(Group(model(e, name), rows))
    return Table(caption, ["Class", "Recall", "Precision", "F1"], [], groups=groups)


def _matrices(e: Evidence, measured: dict[str, Confusion]) -> list[Block]:
    words = f"Rows: true class, columns: answer, {e.split} examples; the darker, the larger the share of the class."
    blocks: list[Block] = []
    if max(len(confusion.classes) for confusion in measured.values()) <= _IN_NUMBERS:
        for name, confusion in measured.items():
            blocks += [Heading(name, e.styles[name].color), _table(e, confusion, words)]
        return blocks
    drawings = [
        Figure(
            name,
            partial(confusion_figure, confusion),
            f"Confusion matrix of {name}; its largest entries are in the table.",
        )
        for name, confusion in measured.items()
    ]
    return [Paragraph(f"{words} Blue: right; red: wrong.", "note"), Grid(drawings), _largest(e, measured)]


def _table(e: Evidence, confusion: Confusion, caption: str) -> Table:
    rows: list[list[Text]] = []
    for label, counts in zip(confusion.classes, confusion.counts, strict=True):
        n = sum(counts)
        if n:
            rows.append([e.class_name(label), *(_entry(count, n) for count in counts)])
    return Table(caption, ["True class", *map(e.class_name, confusion.classes)], rows, "heat")


def _entry(count: int, n: int) -> Shade:
    more = f"({number(100 * count / n, '.1f')} %)" if count else ""
    return Shade(Value(float(count), f"{count:,}"), more, count / n)


def _largest(e: Evidence, measured: dict[str, Confusion]) -> Table:
    groups = []
    for name, confusion in measured.items():
        sizes = {label: sum(counts) for label, counts in zip(confusion.classes, confusion.counts, strict=True)}
        wrong = [(label, answer, count) for label, answer, count in confusion.sparse if label != answer]
        wrong.sort(key=lambda entry: -entry[2])
        rows: list[list[Text]] = [
            [
                _named(e, label, confusion),
                _named(e, answer, confusion),
                Value(float(count), f"{count:,}"),
                f"{number(100 * count / sizes[label], '.1f')} %",
            ]
            for label, answer, count in wrong[:_LARGEST]
        ]
        groups.append(Group(model(e, name), rows or [[Mark("none", "nothing is confused"), "", "", ""]]))
    caption = f"The {_LARGEST} most frequent confusions of each model, and their share of the true class’s examples."
    return Table(caption, ["True class", "Answer", "Examples", "Share"], [], groups=groups)


def _named(e: Evidence, label: int, confusion: Confusion) -> str:
    """The name of a class, with its number where a drawing has numbers."""
    name = e.class_name(label)
    drawn = len(confusion.classes) > _IN_NUMBERS and name != str(label) and label >= 0
    return f"{label}: {name}" if drawn else name
