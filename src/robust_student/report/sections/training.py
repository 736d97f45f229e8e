"""How each model was trained: losses and validation accuracies by epoch, and the search of radius and weight."""

import math
from collections.abc import Mapping
from functools import partial
from itertools import chain
from typing import Literal

from robust_student.report.document.blocks import Block, Bold, Figure, Grid, Heading, Paragraph, Section, Table, Text
from robust_student.report.document.figures import epoch_figure, search_figure, term_styles
from robust_student.report.document.words import NONE, number, share
from robust_student.report.evidence.evaluation import Evidence
from robust_student.report.evidence.schema import Search, Try


def training(e: Evidence) -> Section:
    """Every model that has records of its training."""
    blocks: list[Block] = []
    for name, described in e.details["models"].items():
        search = described["search"]
        if described["history"] or search:
            blocks.append(Heading(name, e.styles[name].color))
            blocks += _epochs(e, name) if described["history"] else []
            blocks += _search(e, name, search) if search else []
    words = f"Training and validation examples only: no number in this section is of the {e.split} split."
    nothing = "No training records were saved with these models."
    return Section("training", "Training", [Paragraph(words), *blocks] if blocks else [Paragraph(nothing)])


def _epochs(e: Evidence, name: str) -> list[Block]:
    described, marked = e.details["models"][name], e.marked_epoch(name)
    if "best_epoch" in described:
        line = f"Dotted line: epoch {marked}, whose weights were kept."
    elif marked is not None:
        line = f"Dotted line: epoch {marked}, the last one with the highest selection score on validation."
    else:
        line = "No epoch has a selection score."
    note = f"{len(described['history'])} epochs. Loss terms: mean per example, before weighting. {line}"
    plots = [_figure(e, name, "terms", "Loss terms"), _figure(e, name, "validation", "Validation accuracies")]
    return [Grid(plots), Paragraph(note, "note")]


def _figure(e: Evidence, name: str, field: Literal["terms", "validation"], title: str) -> Figure:
    history = e.details["models"][name]["history"]
    measured = [epoch[field] for epoch in history]
    lines = {line: [values.get(line) for values in measured] for line in dict.fromkeys(chain(*measured))}
    key, epochs = term_styles(list(lines), e.styles[name]), [epoch["epoch"] for epoch in history]
    accuracy, unique = field == "validation", f"{field}-{e.names.index(name)}"
    draw = partial(epoch_figure, lines, key, epochs, e.marked_epoch(name), unique, accuracy=accuracy)
    return Figure(title, draw, f"{title} of {name} by epoch: {', '.join(key)}.", key)


def _search(e: Evidence, name: str, search: Search) -> list[Block]:
    """The trade-off that a search saw between clean accuracy and the selection score."""
    tries = [(*_pair(tried["validation"]), tried["accepted"]) for tried in search["tries"]]
    baseline = _pair(search["baseline"] or {})
    limit, unique = baseline[0] - search["max_accuracy_drop"], f"search-{e.names.index(name)}"
    draw = partial(search_figure, tries, search["chosen"], baseline, limit, e.styles[name], unique)
    words = f"Selection score against clean validation accuracy of {len(tries)} tries; the numbers are in the table."
    note = (
        "Numbers: the tries; filled: accepted; hollow: rejected; ring: chosen"
        f"{' (none was)' if search['chosen'] is None else ''}; diamond: the baseline; dashed line: the lowest clean "
        "accuracy allowed. The selection score is the mean of the validation accuracies."
    )
    return [Grid([Figure("Search of radius and weight", draw, words), _tries(search)]), Paragraph(note, "note")]


def _tries(search: Search) -> Table:
    rows: list[list[Text]] = []
    if search["baseline"]:
        rows.append(["◆ baseline", "", "", *_accuracies(search["baseline"]), ""])
    for k, tried in enumerate(search["tries"]):
        outcome = Bold("chosen") if search["chosen"] == k else "accepted" if tried["accepted"] else "rejected"
        rows.append([str(k + 1), *_settings(tried), *_accuracies(tried["validation"]), outcome])
    caption = (
        f"Validation accuracies of the tries. Allowed: at most {number(100 * search['max_accuracy_drop'], '.1f')} "
        "points of clean accuracy below the baseline."
    )
    return Table(caption, ["Try", "radius", "weight", "clean", "selection", "outcome"], rows)


def _settings(tried: Try) -> list[Text]:
    return [NONE if value is None else number(value, "g") for value in (tried["radius"], tried["weight"])]


def _accuracies(validation: Mapping[str, float | None]) -> list[Text]:
    return [share(validation.get("clean")), share(validation.get("selection"))]


def _pair(validation: Mapping[str, float | None]) -> tuple[float, float]:
    """(clean, selection); NaN where there is none."""
    clean, selection = validation.get("clean"), validation.get("selection")
    return math.nan if clean is None else clean, math.nan if selection is None else selection
