"""What must be the same for interrupted work to be continued: the first thing in which two records of it differ."""

from typing import Any


def difference(there: Any, here: dict[str, Any]) -> str | None:
    """The first thing in which two fingerprints differ, as `name: OLD there, NEW here`; None where they agree.

    `there` comes from a file, so it may be anything.
    """
    return _difference(there, here) if isinstance(there, dict) else "everything"


def _difference(there: dict[str, Any], here: dict[str, Any], place: str = "") -> str | None:
    for name in dict.fromkeys([*there, *here]):
        old, new = there.get(name), here.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            found = _difference(old, new, f"{place}{name}.")
            if found is not None:
                return found
        elif old != new:
            return f"{place}{name}: {_brief(old)} there, {_brief(new)} here"
    return None


def _brief(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:16]}..."
