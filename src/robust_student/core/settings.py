"""Settings with their units, defaults and valid ranges; the same objects serve Python, YAML files and flags."""

import difflib
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from robust_student.core.errors import UserError, nearest, require_file, short

_Group = TypeVar("_Group", bound="Settings")
_WHOLE = {"parse": "whole"}  # validation context of Settings.whole


LARGEST_SEED = 2**32 - 1
"""The largest seed that every random generator in use takes."""


def _quotient(value: Any) -> Any:
    """`8/255` as the number it is; anything else as it came."""
    parts = re.fullmatch(r"\s*([^/\s]+)\s*/\s*([^/\s]+)\s*", value) if isinstance(value, str) else None
    try:
        return float(parts[1]) / float(parts[2]) if parts else value
    except (ValueError, ZeroDivisionError):
        return value


Radius = Annotated[float, BeforeValidator(_quotient), Field(gt=0)]
"""A positive size of perturbations in input units; as text also a quotient, such as 8/255."""


class Settings(BaseModel):
    """A frozen group of settings that rejects unknown names."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    @classmethod
    def parse(cls: type[_Group], values: Any, source: str = "settings") -> _Group:
        """Build the settings from plain values (a parsed YAML or JSON file), or raise a one-line UserError."""
        try:
            return cls.whole(values)
        except ValidationError as error:
            raise UserError(" ".join(f"{source}: {explain(cls, error.errors()[0])}".split())) from None

    @classmethod
    def whole(cls: type[_Group], values: Any) -> _Group:
        """Build the settings, or raise pydantic's ValidationError, whose problems have the whole path of a setting."""
        return cls.model_validate(values, context=_WHOLE)

    @model_validator(mode="wrap")
    @classmethod
    def _one_line(cls, values: Any, handler: Callable[[Any], Any], info: Any) -> Any:
        """Turn pydantic's report into a UserError, except below `parse`, which knows the whole path of a setting."""
        if info.context is _WHOLE:
            return handler(values)
        try:
            return handler(values)
        except ValidationError as error:
            name = cls.__name__.removesuffix("Settings").lower()
            raise UserError(" ".join(f"{name}: {explain(cls, error.errors()[0])}".split())) from None

    @field_validator("*", mode="before")
    @classmethod
    def _no_empty_path(cls, value: Any, info: Any) -> Any:
        """An empty text would become the path of the current folder."""
        texts = [one for one in (value if isinstance(value, list | tuple) else [value]) if isinstance(one, str)]
        if "" in texts and Path in _kinds_of(cls.model_fields[info.field_name].annotation):
            raise ValueError("a path is empty; write . for the current folder")
        return value

    @field_validator("*", mode="before")
    @classmethod
    def _no_switch_for_a_number(cls, value: Any, info: Any) -> Any:
        """YAML reads `yes` as true, which would become the number 1."""
        if isinstance(value, bool):
            kinds = set(_kinds_of(cls.model_fields[info.field_name].annotation))
            if kinds & {int, float} and bool not in kinds:
                raise ValueError("a number is needed, not a switch such as yes or true")
        return value

    @model_validator(mode="after")
    def _whole_numbers_have_64_bits(self) -> "Settings":
        for name, value in self:
            if isinstance(value, int) and not -(2**63) <= value < 2**63:
                raise ValueError(f"{name} must fit into 64 bits, between -2^63 and 2^63 - 1")
        return self


_LARGEST_CONFIG = 1_000_000
"""Bytes of the largest configuration file that is parsed; examples have a few hundred."""


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which takes the last of several equal keys; this one refuses them."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
        for name in names:
            if names.count(name) > 1:
                raise yaml.YAMLError(f"'{name}' is given twice")
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """Parse a YAML file that holds a mapping; one-line UserError where it is missing or malformed."""
    require_file(path, f"config {path}: cannot read it")
    try:
        if path.stat().st_size > _LARGEST_CONFIG:
            raise UserError(f"config {path}: larger than {_LARGEST_CONFIG:,} bytes; name a file of settings")
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506  # a safe one
    except OSError as error:
        raise UserError(f"config {path}: cannot read it ({error.strerror})") from None
    except RecursionError:
        raise UserError(f"config {path}: not valid YAML (nested too deeply)") from None
    except (yaml.YAMLError, ValueError, KeyError, AttributeError, TypeError) as error:  # the last four: 2001-99-99, ...
        raise UserError(f"config {path}: not valid YAML ({' '.join(str(error).split())[:200]})") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UserError(f"config {path}: expected 'name: value' pairs at the top level, found {type(values).__name__}")
    strange = [name for name in values if not isinstance(name, str)]
    if strange:
        raise UserError(f"config {path}: {short(strange[0])} is not the name of a setting")
    return values


def _nearest_setting(name: str, group: type[BaseModel]) -> str:
    """`nearest` among the settings of a group and those of the groups in it, the latter with their group's name."""
    places = {leaf: place for place in _settings_in(group) if (leaf := place.rpartition(".")[2]) != place}
    places |= {own: own for own in group.model_fields}
    close = difflib.get_close_matches(name, list(places), n=1, cutoff=0.75)
    return f"; did you mean '{places[close[0]]}'?" if close else nearest(name, list(group.model_fields))


def _settings_in(group: type[BaseModel]) -> Iterator[str]:
    for name, field in group.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from (f"{name}.{inner}" for inner in _settings_in(field.annotation))
        else:
            yield name


def _kinds_of(annotation: Any) -> Iterator[Any]:
    """The types that an annotation is made of."""
    yield annotation
    for part in get_args(annotation):
        yield from _kinds_of(part)


def explain(model: type[BaseModel], problem: Mapping[str, Any]) -> str:
    """A problem of a validation error in words that name the setting."""
    place = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        group: Any = model
        for part in problem["loc"][:-1]:
            group = group.model_fields[str(part)].annotation
        return f"unknown setting '{place}'" + _nearest_setting(str(problem["loc"][-1]), group)
    if problem["type"] == "missing":
        return f"'{place}': is missing"
    if problem["type"] == "model_type":
        where = f"'{place}': " if place else ""
        return f"{where}expected 'name: value' pairs (got {short(problem['input'])})"
    message = problem["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    return f"'{place}': {message} (got {short(problem['input'])})" if place else message
