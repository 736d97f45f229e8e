"""What is asked of a reader: a source's spec taken apart, and the format that its images shall have."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from robust_student.core.errors import UserError, nearest
from robust_student.core.tensors import Shape

_OPTION = re.compile(r",(?=[a-z_]+=)(?![^{}]*\})")  # a comma before NAME=, but none inside braces


@dataclass(frozen=True)
class Spec:
    """A data spec `KIND:PLACE[,NAME=VALUE...]`, and what a model or a user wants of its inputs."""

    text: str
    """As the user wrote it."""
    place: str = ""
    """What stands between the colon and the first option."""
    options: dict[str, str] = field(default_factory=dict)
    """The options, by name."""
    shape: Shape | None = None
    """Shape of one input that a model expects; None: whatever the data has."""
    image_size: tuple[int, int] | None = None
    """(height, width) in pixels to which images are resized; None: by the rules of the source."""
    group: str | None = None
    """The column or the pattern of names that says which examples belong together; None: each is on its own."""
    workers: int = 1
    """Processes that decode images."""

    @property
    def path(self) -> Path:
        """The place as a path."""
        return Path(self.place)

    @property
    def folder(self) -> Path:
        """The place as a folder that exists and holds something; else UserError."""
        if not self.path.is_dir():
            self.refuse("not a folder" if self.path.exists() else "no such folder")
        if not any(self.path.iterdir()):
            self.refuse("the folder is empty")
        return self.path

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) that a model or the user wants; None: neither says."""
        return self.image_size if self.shape is None else (self.shape[1], self.shape[2])

    @property
    def channels(self) -> int | None:
        """Channels that a model expects; None: none does."""
        return None if self.shape is None else self.shape[0]

    def require_images(self) -> None:
        """Raise UserError where a model expects something that is no image."""
        if self.shape is not None and (len(self.shape) != 3 or self.shape[0] not in (1, 3)):
            self.refuse(f"holds images, the model expects inputs of shape {self.shape}")

    def refuse(self, what: str) -> NoReturn:
        """Raise the UserError that says what is wrong with these data."""
        raise UserError(f"data '{self.text}': {what}")


def parse_options(text: str, rest: str, names: Sequence[str]) -> tuple[str, dict[str, str]]:
    """`PLACE,NAME=VALUE,...` as the place and the options; a comma separates only before `NAME=` outside braces.

    A source without options takes the whole text as its place. Raises UserError on an unknown or repeated option.
    """
    if not names:
        return rest, {}
    place, *parts = _OPTION.split(rest)
    options: dict[str, str] = {}
    for part in parts:
        name, _, value = part.partition("=")
        if name not in names:
            raise UserError(f"data '{text}': unknown option '{name}'" + nearest(name, list(names)))
        if name in options or not value:
            raise UserError(f"data '{text}': option '{name}' {'is given twice' if value else 'has no value'}")
        options[name] = value
    return place, options
