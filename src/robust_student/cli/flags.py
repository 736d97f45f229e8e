"""The flags of a command: its fields and those of its groups, each with its name, its place and what it takes."""

import difflib
import types
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo


class FlagMark(Enum):
    """What a field's annotation says about its flag."""

    FLAT = "flat"
    """The flags of this group carry no prefix."""
    WORDS = "words"
    """The values are given without a flag."""


@dataclass(frozen=True)
class Flag:
    """One field of a command or of a group in it."""

    place: tuple[str, ...]
    """Names that lead to the field from the command."""
    name: str
    """As it is typed, such as `--secant.weight`; of words without a flag the field's name in capitals."""
    group: type[BaseModel]
    """Whose field it is."""
    field: FieldInfo

    @property
    def words(self) -> bool:
        """Whether its values are given without a flag."""
        return FlagMark.WORDS in self.field.metadata

    @property
    def switch(self) -> bool:
        """Whether it takes no value: `--name` means True, `--no-name` False."""
        return self.field.annotation is bool

    @property
    def names(self) -> tuple[str, ...]:
        """All that may be typed: the name, and of a switch its opposite."""
        group, _, leaf = self.name.removeprefix("--").rpartition(".")
        return (self.name, f"--{group}.no-{leaf}" if group else f"--no-{leaf}") if self.switch else (self.name,)

    @property
    def several(self) -> bool:
        """Whether it takes more than one value."""
        return any(get_origin(kind) is tuple for kind in _members(self.field.annotation))

    @property
    def choices(self) -> tuple[str, ...]:
        """The values that it takes, each of them, where these are few."""
        kinds = [kind for member in _members(self.field.annotation) for kind in _elements(member)]
        return tuple(choice for kind in kinds for choice in _choices(kind))

    @property
    def takes(self) -> str:
        """What follows the flag, as help shows it: `INT`, `{adamw,sgd}`, `[NUMBER ...]`."""
        if self.switch:
            return ""
        return "|".join(_shown(kind) for kind in _members(self.field.annotation) if kind is not types.NoneType)

    def value(self, words: list[str]) -> Any:
        """The words after the flag as a plain value, for pydantic to read; `None` where that is said and allowed."""
        members = _members(self.field.annotation)
        if words == ["None"] and types.NoneType in members:
            return None
        alone = any(get_origin(kind) is not tuple and kind is not types.NoneType for kind in members)
        return words[0] if len(words) == 1 and alone else words


def flags_of(kind: type[BaseModel], place: tuple[str, ...] = (), prefix: str = "") -> Iterator[Flag]:
    """The flags of a command in the order of its fields, those of its groups behind its own."""
    groups = []
    for name, field in kind.model_fields.items():
        inner, here = field.annotation, (*place, name)
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            groups.append(
                (inner, here, prefix if FlagMark.FLAT in field.metadata else f"{prefix}{name.replace('_', '-')}.")
            )
        elif FlagMark.WORDS in field.metadata:
            yield Flag(here, name.upper(), kind, field)
        else:
            yield Flag(here, f"--{prefix}{name.replace('_', '-')}", kind, field)
    for inner, here, inner_prefix in groups:
        yield from flags_of(inner, here, inner_prefix)


def nearest_flag(name: str, flags: Collection[str]) -> str:
    """ "; did you mean --x?" for the flag closest to a misspelt one, with or without its group; else nothing."""
    places = {flag.rpartition(".")[2].removeprefix("--"): flag for flag in flags}
    places |= {flag.removeprefix("--"): flag for flag in flags}
    close = difflib.get_close_matches(name.removeprefix("--"), list(places), n=1)
    return f"; did you mean {places[close[0]]}?" if close else ""


def _members(annotation: Any) -> list[Any]:
    """The types that an annotation allows, without what else it says of them."""
    if get_origin(annotation) is Annotated:
        return _members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [member for part in get_args(annotation) for member in _members(part)]
    return [annotation]


def _elements(kind: Any) -> list[Any]:
    """What a tuple holds; any other type itself."""
    if get_origin(kind) is not tuple:
        return [kind]
    return [member for part in get_args(kind) if part is not ... for member in _members(part)]


def _choices(kind: Any) -> tuple[str, ...]:
    if get_origin(kind) is Literal:
        return tuple(str(choice) for choice in get_args(kind))
    if isinstance(kind, type) and issubclass(kind, Enum):
        return tuple(str(choice.value) for choice in kind)
    return ()


def _shown(kind: Any) -> str:
    """A type as help shows it."""
    if get_origin(kind) is tuple:
        elements = [_shown(element) for element in _elements(kind)]
        return f"[{elements[0]} ...]" if ... in get_args(kind) else " ".join(elements)
    choices = _choices(kind)
    return f"{{{','.join(choices)}}}" if choices else {int: "INT", float: "NUMBER", str: "TEXT", Path: "PATH"}[kind]
