"""The one exception for bad input, and the words that its message is made of."""

import difflib
import reprlib
from pathlib import Path
from typing import Any

_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxdict, _SHORT.maxlist, _SHORT.maxtuple, _SHORT.maxstring = 2, 4, 4, 4, 80


def nearest(name: str, choices: list[str]) -> str:
    """ "; did you mean 'x'?" for the choice closest to a misspelt name, or the list of choices."""
    close = difflib.get_close_matches(name, choices, n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else f"; choose from {', '.join(sorted(choices))}"


def short(value: Any) -> str:
    """A value as it is shown in a complaint: its beginning where it is long or nested."""
    try:
        return _SHORT.repr(value)
    except ValueError:  # a whole number of more digits than Python writes
        return f"a long {type(value).__name__}"


class UserError(Exception):
    """Bad input: the message is one line that says what is wrong, where, and what to do."""


def require_file(path: Path, complaint: str) -> None:
    """Raise UserError where `path` is not a file: opening a pipe would wait forever.

    The reason follows `complaint` in brackets: "config a.yaml: cannot read it (not a file)".
    """
    try:
        if path.is_file():
            return
        reason = "not a file" if path.exists() else "no such file"
    except OSError as error:  # a name that is too long, a folder above it that is closed
        reason = str(error.strerror)
    raise UserError(f"{complaint} ({reason})")
