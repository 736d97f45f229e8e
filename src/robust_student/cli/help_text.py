"""What `--help` prints: the commands, or the flags of one command with what they take, mean and default to."""

import shutil
import textwrap
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any

from pydantic import BaseModel

from robust_student.cli.flags import Flag

PROGRAM = "robust-student"


def help_of_all(commands: Mapping[str, type[BaseModel]]) -> str:
    """The commands, one a paragraph."""
    width = max(map(len, commands)) + 4
    lines = [_filled(f"  {name:{width - 2}}{kind.__doc__}", width) for name, kind in commands.items()]
    usage = f"usage: {PROGRAM} COMMAND [FLAGS]"
    return "\n".join([usage, "", *lines, "", f"The flags of a command: {PROGRAM} COMMAND --help"])


def help_of(name: str, kind: type[BaseModel], flags: Sequence[Flag], start: Mapping[str, Any]) -> str:
    """The flags of a command, group by group; `start` holds the values that those left out have."""
    words = "".join(f" {flag.name} ..." for flag in flags if flag.words)
    parts = [f"usage: {PROGRAM} {name}{words} [FLAGS]", _paragraph(kind)]
    for group in dict.fromkeys(flag.group for flag in flags):
        lines = [] if group is kind else [_paragraph(group)]
        lines += [_entry(flag, start) for flag in flags if flag.group is group]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _entry(flag: Flag, start: Mapping[str, Any]) -> str:
    """A flag and what it takes; below it, indented, what it means and its default."""
    head = f"  {flag.name}" if flag.words else f"  {', '.join(flag.names)} {flag.takes}".rstrip()
    meaning = " ".join((flag.field.description or "").split())
    note = "" if flag.words else f" ({_default(flag, start)})"
    return f"{head}\n{_filled(f'      {meaning}{note}', 6)}"


def _default(flag: Flag, start: Mapping[str, Any]) -> str:
    """The value that a flag has where it is left out, as it is typed."""
    value: Any = start
    for name in flag.place:
        if name not in value:
            if flag.field.is_required():
                return "required"
            value = flag.field.get_default()
            break
        value = value[name]
    if flag.switch:
        return f"default: {flag.names[0] if value else flag.names[1]}"
    if isinstance(value, list | tuple):
        return f"default: {' '.join(map(str, value)) or 'nothing'}"
    return f"default: {value.value if isinstance(value, Enum) else value}"


def _paragraph(group: type[BaseModel]) -> str:
    """The docstring of a group."""
    return _filled(" ".join((group.__doc__ or "").split()), 0)


def _filled(text: str, indent: int) -> str:
    """A paragraph at the terminal's width, its first line as it stands, the others indented."""
    width = min(shutil.get_terminal_size((100, 24)).columns, 120)
    return textwrap.fill(text, max(width, 40), subsequent_indent=" " * indent, break_on_hyphens=False)
