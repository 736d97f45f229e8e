"""A command's fields as flags of argparse, which splits words and writes help; pydantic says what each field takes."""

import argparse
import difflib
import re
import shutil
import textwrap
from collections.abc import Collection, Iterator, Mapping
from functools import partial
from typing import Any

from pydantic import BaseModel

PROGRAM = "robust-student"
COMPLETION = "--print-completion"
"""The word that asks for a script for completion; the shell's name follows."""
FLAT, WORDS = "flat", "words"
"""Marks in the JSON schema of a group whose flags carry no prefix, and of values that are given without a flag."""
_FLAG = re.compile(r"-(?![\d.]|inf|nan|$)", re.IGNORECASE)
"""How a flag begins: with a dash, unless a number follows or nothing."""
_TYPES = {"integer": "INT", "number": "NUMBER", "string": "TEXT", "path": "PATH", "boolean": None}
"""What a flag takes, by the type or the format in its JSON schema."""


class _Keep(argparse.Action):
    """Keeps what follows a flag as plain data for pydantic; `const` holds the types of its field's JSON schema."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option_string: Any = None
    ) -> None:
        if hasattr(namespace, self.dest):
            advice = f", with all its values: {name_of(self)} [{self.metavar} ...]" if self.nargs == "*" else ""
            raise argparse.ArgumentError(None, f"{name_of(self)} is given twice; give it once{advice}")
        if self.nargs == 0:
            values = option_string == name_of(self)
        elif values == ["None"] and "null" in self.const:
            values = None
        elif len(values) == 1 and self.const - {"array", "null"}:
            values = values[0]
        setattr(namespace, self.dest, values)


def parser_of(
    command: str, kind: type[BaseModel], start: Mapping[str, Any]
) -> tuple[argparse.ArgumentParser, dict[str, argparse.Action]]:
    """The parser of a command, and its flags by their places, such as `objective.secant.weight`.

    `start` holds the values that flags have where they are left out, for the help page.
    """
    schema = kind.model_json_schema()
    words = "".join(f" {name.upper()} ..." for name, field in schema["properties"].items() if WORDS in field)
    parser = argparse.ArgumentParser(
        usage=f"{PROGRAM} {command}{words} [FLAGS]",
        description=_filled(schema["description"]),
        formatter_class=partial(argparse.RawTextHelpFormatter, max_help_position=6),
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
        exit_on_error=False,
    )
    return parser, {flag.dest: flag for flag in _added(parser, parser, schema, schema.get("$defs", {}), start)}


def names_of(kind: type[BaseModel]) -> set[str]:
    """All that may be typed as a flag of a command."""
    return {name for flag in parser_of("", kind, {})[1].values() for name in flag.option_strings}


def name_of(flag: argparse.Action) -> str:
    """A flag as it is typed, such as `--secant.weight`; of words without a flag the field's name in capitals."""
    return flag.option_strings[0] if flag.option_strings else str(flag.metavar)


def marked(word: str) -> str:
    """A word for the parser: with a space before a value, lest it take -1e1 for a flag; `_` in a flag's name is `-`."""
    if not _FLAG.match(word):
        return f" {word}"
    name, equals, value = word.partition("=")
    return name.replace("_", "-") + (f"= {value}" if equals else "")


def nearest_flag(name: str, flags: Collection[str], words: Collection[str] = ()) -> str:
    """ "; did you mean --x?" for the flag closest to a misspelt one, with or without its group; else nothing.

    `words` are the names of what is given without a flag.
    """
    places = {word.lower(): f"{word}, which are given without a flag" for word in words}
    places |= {flag.rpartition(".")[2].removeprefix("--"): flag for flag in flags}
    places |= {flag.removeprefix("--"): flag for flag in flags}
    close = difflib.get_close_matches(name.removeprefix("--"), list(places), n=1)
    return f"; did you mean {places[close[0]]}?" if close else ""


def help_of_all(commands: Mapping[str, type[BaseModel]]) -> str:
    """The commands, one a paragraph."""
    width = max(map(len, commands)) + 4
    meanings = {
        name: _filled(kind.__doc__ or "", width).replace("\n", "\n" + width * " ") for name, kind in commands.items()
    }
    lines = [f"  {name:{width - 2}}{meaning}" for name, meaning in meanings.items()]
    usage = f"usage: {PROGRAM} COMMAND [FLAGS]"
    more = [
        f"The flags of a command: {PROGRAM} COMMAND --help",
        f"Completion by the shell: {PROGRAM} {COMPLETION} SHELL",
    ]
    return "\n".join([usage, "", *lines, "", *more])


def _added(
    parser: Any, group: Any, schema: Any, definitions: Any, start: Any, place: str = "", prefix: str = "--"
) -> Iterator[argparse.Action]:
    """Add the fields of a group to its section of the help page, then those of the groups in it to their own."""
    groups = []
    for name, field in schema["properties"].items():
        leaves, dashed = list(_leaves(field, definitions)), name.replace("_", "-")
        if "properties" in leaves[0]:
            groups.append((name, leaves[0], prefix if FLAT in field else f"{prefix}{dashed}."))
            continue
        switch = field.get("type") == "boolean"
        names = [] if WORDS in field else [f"{prefix}{dashed}", f"{prefix}no-{dashed}"][: 1 + switch]
        types = {part.get("type") for part in field.get("anyOf", [field])}
        takes = [_takes(leaf) for leaf in leaves if leaf.get("type") != "null"]
        meaning = _with_default(field["description"], start.get(name, field.get("default", ...)), names)
        yield group.add_argument(
            *names,
            dest=place + name,
            action=_Keep,
            nargs=0 if switch else "*" if "array" in types else 1,
            const=types,
            type=lambda word: word.removeprefix(" "),
            metavar=takes[0] if names else name.upper(),
            help=_filled(meaning if names else field["description"], 6).replace("%", "%%"),
        )
    for name, inner, inner_prefix in groups:
        section = parser.add_argument_group(_filled(inner["description"]).removesuffix("."))
        yield from _added(parser, section, inner, definitions, start.get(name, {}), f"{place}{name}.", inner_prefix)


def _leaves(schema: Any, definitions: Any) -> Iterator[Any]:
    """The alternatives and elements of a JSON schema that have no such parts themselves."""
    if "$ref" in schema:
        schema = definitions[schema["$ref"].rpartition("/")[2]]
    parts = schema.get("anyOf") or schema.get("allOf") or schema.get("prefixItems") or [schema.get("items")]
    if parts == [None]:
        yield schema
    else:
        for part in parts:
            yield from _leaves(part, definitions)


def _takes(leaf: Any) -> str | None:
    """One value, as help shows it: `INT`, `{adamw,sgd}`."""
    choices = leaf.get("enum", [leaf["const"]] if "const" in leaf else None)
    return f"{{{','.join(choices)}}}" if choices else _TYPES[leaf.get("format", leaf["type"])]


def _with_default(description: str, value: Any, names: list[str]) -> str:
    """A description with the value that a flag has where it is left out; for None with what stands behind "None:"."""
    if value is None:
        return description.replace("None: ", "default: ")
    return f"{description} ({_default(value, names)})"


def _default(value: Any, names: list[str]) -> str:
    """The value that a flag has where it is left out, as it is typed."""
    if value is ...:
        return "required"
    if isinstance(value, bool):
        return f"default: {names[not value]}"
    if isinstance(value, list | tuple):
        return f"default: {' '.join(map(str, value)) or 'nothing'}"
    return f"default: {value}"


def _filled(text: str, indent: int = 0) -> str:
    """A paragraph for the terminal's width less an indent, its words unbroken."""
    width = min(shutil.get_terminal_size((100, 24)).columns, 120)
    return textwrap.fill(" ".join(text.split()), max(width - indent, 40), break_on_hyphens=False)
