"""What a check-up finds: one line each, with the fix where something is wrong."""

from typing import Literal, NamedTuple

Severity = Literal["fine", "note", "problem"]
"""note: worth knowing, nothing to repair before work can begin."""


class Finding(NamedTuple):
    """One line of a check-up."""

    area: str
    """What was looked at: packages, devices, arithmetic, output, data or teacher."""
    level: Severity
    text: str
    """What was found, without a full stop."""
    fix: str = ""
    """What to do; every problem has one."""
