"""The masking verdict: may the figures under attack be believed, and why not?"""

from collections.abc import Sequence
from typing import Any

from robust_student.report.document.blocks import Bold, Mark, Paragraph, Section, Table, Text, Value
from robust_student.report.document.words import NONE, badge, number, share, who
from robust_student.report.evidence.evaluation import Evidence
from robust_student.report.sections.phrases import heads

HEAD = ("Model", "Verdict", "Reasons", "Not run")
"""What the cells of `verdicts` are."""


def masking(e: Evidence) -> Section:
    """The verdicts with their reasons, and the figures behind them."""
    suite: Text = " AutoAttack was not run: the Square check is missing and no claim about attacks is made."
    if e.details["autoattack_suite"]:
        suite = (" AutoAttack suite: ", Bold(e.details["autoattack_suite"]), ".")
    words = (
        "A model can look robust because its gradients are useless to an attacker, not because it is robust. Checks "
        "look for that; WARN means doubtful, FAIL means that its figures under attack are no evidence."
    )
    table = Table("What was found, and which checks could not run.", HEAD, verdicts(e))
    return Section("masking", "Masking verdict", [Paragraph((words, suite)), table, _figures(e)], short="Masking")


def verdicts(e: Evidence, before: Sequence[Text] = ()) -> list[list[Text]]:
    """(model, verdict, reasons, checks that could not run) of every model, after the cells in `before`."""
    rows = []
    for name in e.names:
        verdict = e.masking(name)
        reasons: Text = NONE if verdict is None else Mark("prose", "; ".join(verdict["reasons"]) or "none")
        lacking: dict[str, str] = dict(verdict or {}).get("not_run", {})  # type: ignore[assignment]
        missing = "; ".join(f"{check.replace('_', ' ')}: {why}" for check, why in lacking.items())
        rows.append([*before, who(name), badge(verdict), reasons, Mark("prose", missing) if missing else NONE])
    return rows


def _figures(e: Evidence) -> Table:
    caption = "The figures behind it, shares of the n examples that each check looked at; – where it did not run."
    rows = [_row(e, figure) for figure in e.figures_of_masking]
    return Table(
        caption, heads("Check: share that …", e.names)[:1] + ["n", "WARN above", "FAIL above", *map(who, e.names)], rows
    )


def _row(e: Evidence, figure: str) -> list[Text]:
    check, title = e.check(figure), figure.replace("_", " ")
    verdicts: list[dict[str, Any]] = [dict(e.masking(name) or {}) for name in e.names]
    figures = [verdict.get(figure) for verdict in verdicts]
    counts = sorted({verdict.get("examples", {}).get(figure, 0) for verdict in verdicts} - {0})
    n = "–".join(f"{count:,}" for count in dict.fromkeys((*counts[:1], *counts[-1:]))) or NONE
    if check is None:
        return [title, n, NONE, NONE, *(NONE if value is None else Value(value, number(value)) for value in figures)]
    fail = NONE if check.fail is None else f"{number(100 * check.fail, '.1f')}\u00a0%"
    warn = f"{number(100 * check.warn, '.1f')}\u00a0%"
    return [(f"{title}: ", Mark("more", check.words)), n, warn, fail, *map(share, figures)]
