"""Accuracy under attack over the budget, and every accuracy in numbers."""

import math
from functools import partial

from robust_student.report.document.blocks import (
    Block,
    Bold,
    Figure,
    Folded,
    Grid,
    Legend,
    Link,
    Paragraph,
    Section,
    Table,
    Text,
)
from robust_student.report.document.figures import budget_figure
from robust_student.report.document.words import accuracy, norm, number
from robust_student.report.evidence.evaluation import Evidence
from robust_student.report.sections.phrases import WILSON, heads, worth
from robust_student.results.perturbation import Perturbation


def attacks(e: Evidence) -> Section:
    """Curves of PGD and stars of AutoAttack by norm; the table of all accuracies."""
    plots = budget_figures(e)
    nothing = Paragraph((Bold("No attack was run"), ", so nothing is claimed about robustness to attacks."))
    blocks: list[Block] = [_words(e), Legend(e.styles), Grid(plots), _note(e)] if plots else [nothing]
    return Section(
        "attacks", "Accuracy under attack", [*blocks, Folded("All accuracies", [_table(e)])], short="Attacks"
    )


def budget_figures(e: Evidence) -> list[Figure]:
    """Accuracy over the attack's budget, by norm; the budget of the masking check is left out."""
    kinds = [kind for kind, _ in e.plan("attack", "pgd") + e.plan("attack", "autoattack")]
    limits = {"linf": e.range_width}
    figures = []
    for name in dict.fromkeys(str(Perturbation.parse(kind).norm) for kind in kinds):
        words = (
            f"Accuracy against the {norm(name)} budget of the attack, a line for each of {', '.join(e.names)}; the "
            "numbers are in the table of all accuracies."
        )
        draw = partial(budget_figure, e.records, e.styles, name, limits.get(name, math.inf), f"budget-{name}")
        figures.append(Figure(f"Budget in {norm(name)}", draw, words))
    return figures


def _words(e: Evidence) -> Paragraph:
    steps, threat = e.settings.get("pgd_steps"), e.details.get("threat")
    chosen = f" Norm and radius: {threat['words']}." if threat else ""
    pgd = (
        f"An attacker who knows the model changes each input to fool it, within a budget: {norm('linf')}\u00a00.1 lets "
        "every input value move by up to 0.1, an L2 budget limits the length of the whole change. PGD (curves) climbs "
        f"the gradient{f' for {steps} steps' if steps else ''};"
    )
    if e.attack[1] is None:
        return Paragraph(
            (pgd, " ", Bold("AutoAttack was not run"), f", so nothing is claimed about robustness to attacks.{chosen}")
        )
    suite = e.details["autoattack_suite"]
    return Paragraph(
        f"{pgd} AutoAttack (stars, suite “{suite}”) is a set of stronger attacks of which the worst counts.{chosen}"
    )


def _note(e: Evidence) -> Paragraph:
    first = (e.plan("attack", "pgd") + e.plan("attack", "autoattack"))[0]
    words: list[Text] = [
        f"n\u00a0=\u00a0{e.counts(first)} {e.split} examples; an example counts as right only if it is right without "
        f"and with the attack. {WILSON}, bars around the stars too. Empirical: an upper bound on robustness, not "
        "certified.",
        f" {e.spared}" if e.spared else "",
    ]
    if e.settings.get("every_budget") is False:
        words.append(" PGD begins at its largest budget; what holds there is taken to hold at smaller ones.")
    for name in e.alarms:
        verdict = e.masking(name)
        assert verdict is not None
        claim = f" are {worth(verdict)} of robustness: masking verdict {verdict['level']}."
        words += [" The curves and stars of ", Bold(name), claim]
    if (str(Perturbation.attack("pgd", "linf")), e.range_width) in e.plan("attack", "pgd"):
        budget = f" The budget {number(e.range_width, 'g')}, as wide as the input range, is left out here"
        words += [f"{budget}: it belongs to the ", Link("masking", "masking check"), "."]
    return Paragraph(tuple(words), "note")


def _table(e: Evidence) -> Table:
    rows = [
        [e.place(at), *(accuracy(e.get(name, "accuracy", *at), e.mark(name, at)) for name in e.names)]
        for at in e.plain_plan
    ]
    caption = f"Accuracy with 95\u00a0% Wilson interval on the {e.split} split."
    if e.alarms:
        caption += " WARN, FAIL: the model’s masking verdict doubts the figure."
    return Table(caption, heads("Perturbation", e.names), rows)
