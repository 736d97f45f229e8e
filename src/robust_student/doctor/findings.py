"""What a check-up finds: one line each, with the fix where something is wrong."""

from typing import Literal, NamedTuple

Severity = Literal["fine", "note", "problem"]
"""note: worth knowing, nothing to repair before work can begin."""
_GRAVE = 0.01
"""Share of the examples from which on a fault is a problem rather than a note."""


class Finding(NamedTuple):
    """One line of a check-up."""

    area: str
    """What was looked at: packages, devices, arithmetic, output, data or teacher."""
    level: Severity
    text: str
    """What was found, without a full stop."""
    fix: str = ""
    """What to do; every problem has one."""


def severity_of(count: int, total: int) -> Severity:
    """How grave a fault is that `count` of `total` examples have."""
    return "problem" if count >= _GRAVE * total else "note"
