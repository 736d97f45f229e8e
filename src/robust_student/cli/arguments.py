"""From words to settings: flags over YAML values over a method's values over defaults; complaints are one line."""

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import ValidationError

from robust_student.cli.flags import Flag, FlagMark, flags_of, nearest_flag
from robust_student.cli.help_text import PROGRAM, help_of, help_of_all
from robust_student.core.errors import UserError, nearest, short
from robust_student.core.settings import Settings, explain, read_yaml

Flat = FlagMark.FLAT
"""Mark of a group whose flags carry no prefix."""
Config = Path | None
"""Type of a command's YAML file."""
Words = Annotated[tuple[str, ...], FlagMark.WORDS]
"""Type of words that are given without a flag."""
Paths = Annotated[tuple[Path, ...], FlagMark.WORDS]
"""Type of paths that are given without a flag."""


class Command(Settings):
    """A command: its fields are its flags, its docstring is its help."""

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

    Without `arguments` the process's own are taken. Prints help and raises SystemExit where that is asked for.
    """
    name, *words = _words(arguments) or [""]
    if name in ("-h", "--help"):
        print(help_of_all(commands))
        raise SystemExit(0)
    if name not in commands:
        what = f"unknown command '{name}'{nearest(name, list(commands))}" if name else "name a command"
        raise UserError(f"{what} (see {PROGRAM} --help)")
    kind = commands[name]
    kind = kind.variant(words, _content(kind, value_of(words, "--config")))
    flags = list(flags_of(kind))
    if "--help" in words or "-h" in words:
        print(help_of(name, kind, flags, _start(kind, from_file(kind, value_of(words, "--config")))))
        raise SystemExit(0)
    typed = _typed(name, words, flags, kind)
    values = _start(kind, merged(from_file(kind, typed.get("config")), typed))
    try:
        return kind.whole(values)
    except ValidationError as error:
        raise UserError(_complaint(name, error, flags)) from None


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


def _typed(command: str, words: list[str], flags: list[Flag], kind: type[Command]) -> dict[str, Any]:
    """The values that words give to flags, in their groups; UserError on a word that fits none, or a flag twice."""
    by_name = {name: flag for flag in flags if not flag.words for name in flag.names}
    see = f"(see {PROGRAM} {command} --help)"
    loose: list[str] = []
    values: dict[tuple[str, ...], Any] = {}
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not _is_flag(word):
            loose.append(word)
            continue
        name, equals, value = word.partition("=")
        name = name.replace("_", "-")
        if name not in by_name:
            raise UserError(f"{command}: unknown flag {name}{kind.owner(name) or nearest_flag(name, by_name)} {see}")
        flag = by_name[name]
        if flag.place in values:
            raise UserError(f"{command}: {flag.name} is given twice; give it once{_together(flag)}")
        if flag.switch:
            if equals:
                raise UserError(f"{name}: takes no value; write one of {', '.join(flag.names)}")
            values[flag.place] = name == flag.name
            continue
        following = [value] if equals else []
        while rest and not _is_flag(rest[0]) and (flag.several or not following):
            following.append(rest.pop(0))
        if not following and not flag.several:
            raise UserError(f"{name}: has no value; write {name} {flag.takes}")
        values[flag.place] = flag.value(following)
    target = next((flag for flag in flags if flag.words), None)
    if target is not None:
        values[target.place] = loose
    elif loose:
        raise UserError(f"{command}: unexpected word {short(loose[0])} {see}")
    grouped: dict[str, Any] = {}
    for (*groups, leaf), value in values.items():
        inner = grouped
        for group in groups:
            inner = inner.setdefault(group, {})
        inner[leaf] = value
    return grouped


def _together(flag: Flag) -> str:
    return f", with all its values: {flag.name} {flag.takes}" if flag.several else ""


def _is_flag(word: str) -> bool:
    """Whether a word is a flag: it begins with a dash and is no negative number."""
    if not word.startswith("-") or word == "-":
        return False
    try:
        float(word)
    except ValueError:
        return True
    return False


def _complaint(command: str, error: ValidationError, flags: list[Flag]) -> str:
    """The first problem as one line that names the flag, the value and what is expected."""
    problems = error.errors()
    missing = [".".join(map(str, problem["loc"])) for problem in problems if problem["type"] == "missing"]
    names = [flag.name for flag in flags if ".".join(flag.place) in missing]
    if names:
        return f"{command}: {', '.join(names)} must be given (see {PROGRAM} {command} --help)"
    problem = problems[0]
    flag = next((flag for flag in flags if flag.place == problem["loc"][: len(flag.place)]), None)
    message = problem["msg"].removeprefix("Value error, ")
    message = " ".join(f"{message[:1].lower()}{message[1:]}".split())
    if flag is None:
        return f"{'.'.join(map(str, problem['loc'])) or command}: {message}"
    if problem["type"] in ("literal_error", "enum"):
        return f"{flag.name}: {short(problem['input'])} is unknown. Expected one of {flag.choices}"
    return f"{flag.name}: {message} (got {short(problem['input'])})"


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
    return match[1] if match else re.split(r"[@,]", Path(rest).resolve().name)[0], rest


def value_of(words: Sequence[str], flag: str) -> str | None:
    """The value of a flag given as `--flag VALUE` or `--flag=VALUE`."""
    for position, word in enumerate(words):
        if word == flag and position + 1 < len(words):
            return words[position + 1]
        if word.startswith(f"{flag}="):
            return word.partition("=")[2]
    return None
