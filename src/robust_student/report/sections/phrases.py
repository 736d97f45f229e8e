"""Phrases and cells that several sections use, so that they say the same thing in the same words."""

from collections.abc import Mapping
from typing import Any

from robust_student.report.document.blocks import Block, Facts, Heading, Mark, Paragraph, Text
from robust_student.report.document.words import NOT_MEASURED, leaves, listed, number, points, who
from robust_student.report.evidence.evaluation import Evidence, Place
from robust_student.report.evidence.reading import Saved

WILSON = "The bands and brackets are 95\u00a0% Wilson intervals"
WORTHLESS = "An answer that does not depend on the input is never changed by an attack: no evidence of robustness."
"""What is said of a model that answers one class for everything, or no better than chance."""
_OUTCOME_SIGNS = {"better": "\u25b2 better", "worse": "\u25bc worse", "not shown": "\u25cb not shown"}
_MADE = ("version", "git_commit", "created", "seed", "data", "hardware", "python", "torch", "source", "warnings")
"""What a provenance record says beside its settings."""
_CARD = ("network", "input_shape", "input_range", "classes", "sha256")
"""What a model's card says."""


def model(e: Saved[Any], name: str) -> Text:
    """A model's name with its roles."""
    roles = [role for role, holder in (("baseline", e.baseline), ("teacher", e.teacher)) if name == holder]
    return who(name, *roles)


def heads(first: str, names: list[str]) -> list[Text]:
    """The head of a table with a column per model."""
    return [first, *map(who, names)]


def at_noise(e: Evidence) -> str:
    """The noise level nearest to 0 dB as it follows a verb."""
    return "under noise" if e.level is None else f"at {number(e.level, 'g')}\u00a0dB noise"


def worth(verdict: Mapping[str, Any]) -> str:
    """What figures under attack are worth whose masking verdict is not PASS."""
    return f"{'no' if verdict['level'] == 'FAIL' else 'doubtful'} evidence"


def gap(record: Mapping[str, Any], unit: str = "\u00a0points") -> Text:
    """A difference with its interval."""
    if record["low"] is None or record["high"] is None:
        return points(record["value"]), unit
    ends = ("[", points(record["low"]), ", ", points(record["high"]), "]")
    return points(record["value"]), unit, " ", Mark("whole", ends)


def signed(e: Evidence, name: str, at: Place, unit: str = "") -> Text:
    """How a model compares with the baseline in a cell, as a sign and the difference."""
    record = e.get(name, f"accuracy_minus_{e.baseline}", *at)
    if record is None or record["value"] is None:
        return NOT_MEASURED
    if e.doubted(name, at):
        return Mark("worse", "\u2715 no evidence (masking)"), " ", gap(record, unit)
    outcome = e.outcome(name, at)
    kind = outcome if outcome in ("better", "worse") else "unsettled"
    return Mark(kind, _OUTCOME_SIGNS.get(outcome, "? no interval")), " ", gap(record, unit)


def origin(record: Mapping[str, Any]) -> list[Block]:
    """A provenance record, its settings in small print."""
    blocks: list[Block] = [Facts([(name.replace("_", " "), listed(record[name])) for name in _MADE if name in record])]
    if record.get("settings"):
        blocks += [Heading("Settings"), Facts(leaves(record["settings"]), "long")]
    return blocks


def card(described: Mapping[str, Any]) -> list[Block]:
    """A model's card, and the record of its training."""
    card_fields = described["card"]
    facts: list[tuple[Text, Text]] = [(n.replace("_", " "), listed(card_fields[n])) for n in _CARD if n in card_fields]
    provenance = card_fields.get("provenance") or {}
    return [Facts(facts), *(origin(provenance) if provenance else [Paragraph("No record of its training.", "note")])]


def sample(label: str, e: Evidence) -> str:
    """Which models of an evaluation were measured on what."""
    counts, seed = e.details["sample"], e.details["provenance"].get("seed", "unknown")
    return (
        f"{label}: {', '.join(e.names)} on {e.data}, {counts['examples']:,} of {counts['test']:,} {e.split} examples, "
        f"{counts['attacked']:,} under attack, evaluation seed {seed}."
    )
