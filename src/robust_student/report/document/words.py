"""Numbers, records and names as the text of a report."""

from collections.abc import Mapping
from typing import Any

from robust_student.report.document.blocks import Mark, Small, Text, Value
from robust_student.results.perturbation import NORMS, Perturbation

NOT_MEASURED = Mark("none", "not measured")
NONE = Mark("none", "\u2013")
"""What stands in a cell where there is nothing."""
_VERDICT_SIGNS = {"PASS": "\u2713", "WARN": "!", "FAIL": "\u2715"}
"""Sign of a masking verdict beside its word."""


def number(value: float, form: str = ".3g") -> str:
    """A number for people, with a true minus sign; zero has no sign."""
    text = f"{value:{form}}"
    return text.lstrip("+-") if float(text) == 0 else text.replace("-", "\u2212")


def norm(name: str) -> str:
    """How a norm is written for people."""
    return NORMS.get(name, name)


def place(perturbation: str, setting: float | None, suite: str | None = None) -> str:
    """The name of a perturbation at a setting for people; `suite` is AutoAttack's."""
    value = "" if setting is None else number(setting, "g")
    kind = Perturbation.parse(perturbation)
    if kind.family == "noise" and kind.name == "gaussian":
        return f"{kind.title}, {value}\u00a0dB" if value else kind.title
    if kind.is_attack:
        named = f" ({suite})" if suite and kind.name == "autoattack" else ""
        return f"{kind.title}{named}, {norm(str(kind.norm))}\u00a0{value}"
    if kind.family == "corruption":
        return f"{kind.title}, severity\u00a0{value}"
    return f"{kind.title} {value}".strip()


def share(value: float | None) -> Text:
    """A share in percent; a dash where there is none."""
    return NONE if value is None else Value(value, f"{number(100 * value, '.1f')}\u00a0%")


def points(value: float) -> Value:
    """A difference of shares in percentage points, with its sign."""
    return Value(value, number(100 * value, "+.1f"))


def accuracy(record: Mapping[str, Any] | None, mark: str = "") -> Text:
    """A share with its interval and number of examples: "80.5 % [74.5, 85.4] n = 200"; `mark` follows the share."""
    if record is None or record["value"] is None:
        return NOT_MEASURED
    pieces: list[Text] = [n_examples(record["n"])]
    if record["low"] is not None and record["high"] is not None:
        pieces.insert(0, interval(record, 100.0, ".1f"))
    return share(record["value"]), mark, " ", Small(pieces)


def score(record: Mapping[str, Any] | None, factor: float = 1.0, form: str = ".3g") -> Text:
    """A figure times `factor` with its interval and number of examples."""
    if record is None or record["value"] is None:
        return NOT_MEASURED
    pieces: list[Text] = [n_examples(record["n"])]
    if record["low"] is not None and record["high"] is not None:
        pieces.insert(0, interval(record, factor, form))
    return Value(record["value"], number(factor * record["value"], form)), " ", Small(pieces)


def radius(record: Mapping[str, Any] | None) -> Text:
    """A median radius with its interval; an end that is None is infinite."""
    if record is None or record["n"] == 0:
        return NOT_MEASURED
    return length(record["value"]), " ", Small([interval(record, 1.0, ".3g"), n_examples(record["n"])])


def length(value: float | None) -> Text:
    """A radius; None is infinite."""
    return "\u221e" if value is None else Value(value, number(value))


def interval(record: Mapping[str, Any], factor: float, form: str) -> Text:
    """The ends of a record's interval times `factor`; an end that is None is infinite."""
    ends = [record[end] for end in ("low", "high")]
    low, high = ("\u221e" if end is None else Value(end, number(factor * end, form)) for end in ends)
    return "[", low, ", ", high, "]"


def n_examples(count: int) -> str:
    """A number of examples: "n = 1,000"."""
    return f"n\u00a0=\u00a0{count:,}"


def compact(count: float) -> str:
    """A large count: 5 M, 12,345."""
    if count >= 1e9:
        return f"{number(count / 1e9)}\u00a0G"
    return f"{number(count / 1e6)}\u00a0M" if count >= 1e6 else f"{count:,.0f}"


def who(name: str, *roles: str) -> Text:
    """A model's name, with its roles below it."""
    return (Mark("name", name), *(Mark("role", role) for role in roles))


def badge(verdict: Mapping[str, Any] | None) -> Text:
    """A masking verdict as a sign and a word."""
    if verdict is None:
        return Mark("none", "not attacked")
    return Mark(verdict["level"].lower(), f"{_VERDICT_SIGNS[verdict['level']]} {verdict['level']}")


def listed(value: Any) -> str:
    """A setting for people: items of a list by commas."""
    if value is None:
        return "none"
    return ", ".join(map(str, value)) if isinstance(value, list | tuple | set) else str(value)


def leaves(tree: Mapping[str, Any], path: str = "") -> list[tuple[str, str]]:
    """The settings of a nested mapping as (dotted name, value)."""
    pairs = []
    for name, value in tree.items():
        inner = isinstance(value, Mapping) and value
        pairs += leaves(value, f"{path}{name}.") if inner else [(f"{path}{name}", listed(value))]
    return pairs
