"""From words to settings: flags over YAML values over a method's values over defaults; complaints are one line."""

import argparse
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field, ValidationError

from robust_student.cli.completion import completion_of
from robust_student.cli.flags import (
    COMPLETION,
    FLAT,
    PROGRAM,
    WORDS,
    help_of_all,
    marked,
    name_of,
    names_of,
    nearest_flag,
    parser_of,
)
from robust_student.core.errors import UserError, nearest, short
from robust_student.core.settings import Settings, explain, read_yaml

Flat = Field(json_schema_extra={FLAT: True})
"""Mark of a group whose flags carry no prefix."""
Config = Path | None
"""Type of a command's YAML file."""
Words = Annotated[tuple[str, ...], Field(json_schema_extra={WORDS: True})]
"""Type of words that are given without a flag."""
Paths = Annotated[tuple[Path, ...], Field(json_schema_extra={WORDS: True})]
"""Type of paths that are given without a flag."""


class Command(Settings):
    """A command: its fields are its flags, its docstring is its help."""

    starting_point: ClassVar[str] = ""
    """The field on which the defaults of others depend; empty where there is none."""

    @classmethod
    def variant(cls, words: Sequence[str], file: Mapping[str, Any]) -> "type[Command]":
        """The command with the flags that these words, or a YAML file's values, ask for."""
        return cls

    @classmethod
    def owner(cls, flag: str) -> str:
        """Where an unknown flag belongs, as the end of a complaint; empty where nobody knows it."""
        return ""

    @classmethod
    def complete(cls, values: dict[str, Any]) -> dict[str, Any]:
        """What flags and file say, completed by defaults that depend on it."""
        return values

    def run(self) -> None:
        """Run the command; UserError on bad input."""
        raise NotImplementedError


def parse(arguments: Sequence[str] | None, commands: Mapping[str, type[Command]]) -> Command:
    """The command that the words ask for, with defaults from its YAML file; UserError, one line, on bad input.

    Without `arguments` the process's own are taken. Raises SystemExit once help or a script for completion is printed.
    """
    name, *words = _words(arguments) or [""]
    if name in ("-h", "--help", COMPLETION):
        print(completion_of(commands, " ".join(words)) if name == COMPLETION else help_of_all(commands))
        raise SystemExit(0)
    if name not in commands:
        what = f"unknown command '{name}'{nearest(name, list(commands))}" if name else "name a command"
        raise UserError(f"{what} (see {PROGRAM} --help)")
    path = value_of(words, "--config")
    kind = commands[name].variant(words, _content(commands[name], path))
    file = from_file(kind, path)
    chosen = value_of(words, f"--{kind.starting_point}") if kind.starting_point else None
    start = _start(kind, file if chosen is None else file | {kind.starting_point: chosen})
    typed = _typed(name, words, kind, start)
    try:
        return kind.whole(_start(kind, merged(file, typed)))
    except ValidationError as error:
        raise UserError(_complaint(name, error, kind)) from None


def command_name(arguments: Sequence[str] | None) -> str:
    """The word that names the command, empty where there is none; without `arguments` the process's own are taken."""
    return next(iter(_words(arguments)), "")


def from_file(kind: type[Command], path: str | None) -> dict[str, Any]:
    """The values of a command's YAML file, which need not hold all that is required; UserError where one is wrong."""
    values, source = _content(kind, path), f"config {path}"
    if not values:
        return {}
    if "config" in values:
        raise UserError(f"{source}: a file cannot name another one; 'config' belongs on the command line")
    try:
        kind.whole(_start(kind, values))
    except ValidationError as error:
        wrong = [problem for problem in error.errors() if problem["type"] != "missing" or len(problem["loc"]) > 1]
        if wrong:
            raise UserError(" ".join(f"{source}: {explain(kind, wrong[0])}".split())) from None
    return values


def _content(kind: type[Command], path: str | None) -> dict[str, Any]:
    """What a command's YAML file says; nothing without one."""
    return {} if path is None or "config" not in kind.model_fields else read_yaml(Path(path))


def _words(arguments: Sequence[str] | None) -> list[str]:
    return list(sys.argv[1:] if arguments is None else arguments)


def _start(kind: type[Command], values: dict[str, Any]) -> dict[str, Any]:
    """What is given over the defaults of the command's groups."""
    groups = {name: field.default for name, field in kind.model_fields.items() if isinstance(field.default, Settings)}
    return merged({name: group.model_dump() for name, group in groups.items()}, kind.complete(values))


def _typed(command: str, words: Sequence[str], kind: type[Command], start: Mapping[str, Any]) -> dict[str, Any]:
    """The values that words give to flags, in their groups; UserError on a word that fits none, or a flag twice."""
    parser, flags = parser_of(command, kind, start)
    see = f"(see {PROGRAM} {command} --help)"
    try:
        namespace, rest = parser.parse_known_intermixed_args([marked(word) for word in words])
    except argparse.ArgumentError as error:
        flag = next((flag for flag in flags.values() if "/".join(flag.option_strings) == error.argument_name), None)
        if flag is None:
            raise UserError(f"{command}: {error}") from None
        switch = f"takes no value; write one of {', '.join(flag.option_strings)}"
        what = switch if flag.nargs == 0 else f"has no value; write {name_of(flag)} {flag.metavar}"
        raise UserError(f"{name_of(flag)}: {what}") from None
    unknown = next((word.partition("=")[0] for word in rest if not word.startswith(" ")), None)
    if unknown is not None:
        flagless = [name_of(flag) for flag in flags.values() if not flag.option_strings]
        near = kind.owner(unknown) or nearest_flag(unknown, names_of(kind), flagless)
        raise UserError(f"{command}: unknown flag {unknown}{near} {see}")
    if rest:
        raise UserError(f"{command}: unexpected word {short(rest[0][1:])} {see}")
    typed: dict[str, Any] = {}
    for place, value in vars(namespace).items():
        for name in reversed(place.split(".")):
            value = {name: value}
        typed = merged(typed, value)
    return typed


def _complaint(command: str, error: ValidationError, kind: type[Command]) -> str:
    """The first problem as one line that names the flag, the value and what is expected."""
    flags: dict[tuple[int | str, ...], str]
    flags = {tuple(place.split(".")): name_of(flag) for place, flag in parser_of(command, kind, {})[1].items()}
    problems = error.errors()
    names = [flags[problem["loc"]] for problem in problems if problem["type"] == "missing" and problem["loc"] in flags]
    if names:
        return f"{command}: {', '.join(names)} must be given (see {PROGRAM} {command} --help)"
    problem = problems[0]
    flag = next((name for place, name in flags.items() if place == problem["loc"][: len(place)]), None)
    message = problem["msg"].removeprefix("Value error, ")
    message = " ".join(f"{message[:1].lower()}{message[1:]}".split())
    if flag is None:
        return f"{'.'.join(map(str, problem['loc'])) or command}: {message}"
    return f"{flag}: {message} (got {short(problem['input'])})"


def merged(base: dict[str, Any], changes: dict[Any, Any]) -> dict[Any, Any]:
    """`base` with `changes` put over it, group by group."""
    union = dict(base)
    for name, value in changes.items():
        both = isinstance(value, dict) and isinstance(union.get(name), dict)
        union[name] = merged(union[name], value) if both else value
    return union


def named(word: str) -> tuple[str, str]:
    """The name and the rest of `NAME=REST`; a word without a name, such as `runs/kd`, is named by its last part."""
    match = re.match(r"([^=:/\\,@]+)=", word)
    rest = word[match.end() :] if match else word
    return match[1] if match else re.split(r"[@,]", Path(os.path.realpath(rest)).name)[0], rest


def value_of(words: Sequence[str], flag: str) -> str | None:
    """The value that words give to a flag; None where they give none."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument(flag, dest="value", nargs="?")
    value: str | None = parser.parse_known_args(words)[0].value
    return value
