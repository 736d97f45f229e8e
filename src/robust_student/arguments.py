"""From words to settings: flags over YAML values over a method's values over defaults; complaints become one line."""

import contextlib
import io
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, get_origin

import tyro

from robust_student.settings import Settings, read_yaml
from robust_student.tensors import UserError

Flat = tyro.conf.arg(name="")
"""Mark of a group whose flags carry no prefix."""
Config = Annotated[Path | None, tyro.conf.arg(metavar="FILE")]
"""Type of a command's YAML file."""
Words = tyro.conf.Positional[tuple[str, ...]]
"""Type of words that are given without a flag."""
Paths = tyro.conf.Positional[tuple[Path, ...]]
"""Type of paths that are given without a flag."""


class Command(Settings):
    """A command: its fields are its flags, its docstring is its help."""

    @classmethod
    def complete(cls, given: dict[str, Any], words: list[str]) -> dict[str, Any]:
        """The values of the YAML file, completed by defaults that depend on other values; `words` are the flags."""
        return given

    def run(self) -> None:
        """Do it."""
        raise NotImplementedError


def parse(arguments: Sequence[str] | None, commands: Mapping[str, type[Command]]) -> Command:
    """The command that the words ask for, with defaults from its YAML file; UserError, one line, on bad input.

    Without `arguments` the process's own are taken.
    """
    words = _words(arguments)
    defaults = {name: _defaults(kind, words[1:] if words[:1] == [name] else []) for name, kind in commands.items()}
    union = tyro.extras.subcommand_type_from_defaults(
        defaults, {name: kind.__doc__ or "" for name, kind in commands.items()}, prefix_names=False
    )
    config = (tyro.conf.OmitSubcommandPrefixes, tyro.conf.EnumChoicesFromValues)
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(union, args=words, prog="robust-student", config=config)
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise UserError(_one_line(complaint.getvalue(), words[0] if words and words[0] in commands else None)) from None


def command_name(arguments: Sequence[str] | None) -> str:
    """The word that names the command, empty where there is none; without `arguments` the process's own are taken."""
    return next(iter(_words(arguments)), "")


def _words(arguments: Sequence[str] | None) -> list[str]:
    return list(sys.argv[1:] if arguments is None else arguments)


def _defaults(kind: type[Command], words: list[str]) -> Command:
    """An instance to start from: YAML values over the built-in ones; MISSING where none is given."""
    path = value_of(words, "--config")
    given: dict[str, Any] = read_yaml(Path(path)) if path is not None and "config" in kind.model_fields else {}
    source = f"config {path}"
    if "config" in given:
        raise UserError(f"{source}: a file cannot name another one; 'config' belongs on the command line")
    given = kind.complete(given, words)
    required = [name for name, field in kind.model_fields.items() if field.is_required() and name not in given]
    several = [name for name in required if get_origin(kind.model_fields[name].annotation) is tuple]
    placeholders = {name: ("x",) if name in several else "x" for name in required}
    instance = kind.parse(given | placeholders, source)
    return instance.model_copy(update={name: tyro.MISSING for name in required})


def merged(base: dict[str, Any], changes: dict[Any, Any]) -> dict[Any, Any]:
    """`base` with `changes` put over it, group by group."""
    together = dict(base)
    for name, value in changes.items():
        both = isinstance(value, dict) and isinstance(together.get(name), dict)
        together[name] = merged(together[name], value) if both else value
    return together


def named(word: str) -> tuple[str, str]:
    """The name and the rest of `NAME=REST`; a word without a name, such as `runs/kd`, is named by its last part."""
    match = re.match(r"([^=:/\\,@]+)=", word)
    rest = word[match.end() :] if match else word
    return match[1] if match else re.split(r"[@,]", Path(rest).resolve().name)[0], rest


def value_of(words: list[str], flag: str) -> str | None:
    """The value of a flag given as `--flag VALUE` or `--flag=VALUE`."""
    for position, word in enumerate(words):
        if word == flag and position + 1 < len(words):
            return words[position + 1]
        if word.startswith(f"{flag}="):
            return word.partition("=")[2]
    return None


def _one_line(complaint: str, command: str | None) -> str:
    """tyro's boxed complaint as one line."""
    text = re.sub(r"^.*╮$", "", complaint, flags=re.MULTILINE)  # the box's title
    text = re.sub(r"\A.*\n *-{5,} *\n", "", text)  # the title where the terminal cannot draw boxes
    text = re.sub(r"^│? {8,}\S.*$", "", text, flags=re.MULTILINE)  # the help of flags that it names
    text = re.sub(r"[╭╮╰╯─│]+|-{5,}", " ", text)
    text = re.sub(r"For full helptext.*", " ", " ".join(text.split()))
    text = re.sub(r" in robust-student \w+ --help", "", text)
    text = re.sub(r"'None', |, 'None'", "", text)  # what leaving an option out stands for, at any place of a set
    return f"{text.strip().rstrip('.')} (see robust-student{f' {command}' if command else ''} --help)"
