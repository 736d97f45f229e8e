"""Phrases and cells that the sections on certificates share."""

from collections.abc import Mapping
from typing import Any

from robust_student.report.document.blocks import Bold, Mark, Small, Text, Value
from robust_student.report.document.words import NOT_MEASURED, accuracy, n_examples, norm, number, share
from robust_student.report.evidence.certificates import Between, Certificates, Share
from robust_student.report.sections.phrases import model

_METHODS_IN_WORDS = {
    "interval": "intervals, layer by layer",
    "gradient": "bounds of the gradient in the ball",
    "lipschitz": "product of the layers’ Lipschitz constants",
    "linear": "linear bounds (CROWN)",
}
"""What each method of certification does."""


def heads_with_roles(c: Certificates, first: str, names: list[str]) -> list[Text]:
    """The head of a table with a column per model."""
    return [first, *(model(c, name) for name in names)]


def budget_column(c: Certificates, budget: float) -> str:
    """The head of a budget's column."""
    return f"{norm(c.norm)}\u00a0{number(budget, 'g')}"


def budgets(c: Certificates) -> str:
    """The budgets as they follow a noun."""
    return ", ".join(number(budget, "g") for budget in c.budgets)


def as_record(share: Share | None) -> Mapping[str, Any] | None:
    """A share as records are written."""
    return None if share is None else share._asdict()


def between(pair: Between) -> Text:
    """What lies between a certified and an attacked share."""
    certified, attack = pair
    if certified is None and attack is None:
        return NOT_MEASURED
    if attack is None:
        return "at least ", accuracy(as_record(certified))
    if certified is None:
        return "at most ", accuracy(as_record(attack))
    low, high = (Value(end, number(100 * end, ".1f")) for end in (certified.low, attack.high))
    first = Value(certified.value, number(100 * certified.value, ".1f"))
    ends = ("[", low, ", ", high, "]")
    return Bold((first, "\u00a0– ", share(attack.value))), " ", Small([ends, n_examples(certified.n)])


def label(c: Certificates, kind: str) -> Text:
    """The name of a kind of radius, and what it is worth."""
    head, method = kind.partition("_")[0], kind.split("_")[1]
    if head == "estimated":
        return "estimated", Mark("role", "first order, at x: no guarantee")
    if head == "sampled":
        return "sampled", Mark("role", f"steepest of {c.settings['sampled_points']} points: no guarantee")
    if head == "attack":
        return "attack", Mark("role", "smallest perturbation found: upper bound")
    if method in _METHODS_IN_WORDS:
        return f"certified: {method}", Mark("role", _METHODS_IN_WORDS[method])
    return Bold("certified: best"), Mark("role", "largest of the methods: lower bound")
