"""The image files behind the examples of a folder: how they are called, and what size they had."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from robust_student.core.errors import short
from robust_student.core.tensors import Shape
from robust_student.data.images import read_header
from robust_student.data.readers.image_folder import image_files
from robust_student.data.spec import Spec
from robust_student.doctor.findings import Finding

_FOLDER = "folder:"
_LOOKED_AT = 2_000
"""Files whose headers are read, evenly spread, at most."""
_MUCH = 2
"""Times as many pixels a side as are left from which on it is a note."""


@dataclass(frozen=True)
class ImageFiles:
    """The files of each part of a folder, in the order of its examples."""

    root: Path
    parts: dict[str, list[Path]]

    @classmethod
    def of(cls, spec: str) -> "ImageFiles | None":
        """Those of a data spec; None where its examples are no files of their own. UserError."""
        if not spec.startswith(_FOLDER):
            return None
        place = spec.removeprefix(_FOLDER)
        return cls(Path(place), image_files(Spec(spec, place)))

    def name(self, part: str, number: int) -> str:
        """The file of an example, below the folder, as it may be shown."""
        return short(self.parts[part][number].relative_to(self.root).as_posix())


def check_sizes(files: ImageFiles, shape: Shape, *, expected: bool) -> Finding:
    """What size the images had and have now; `expected`: because a teacher takes it."""
    paths = [path for part in files.parts.values() for path in part]
    count = min(_LOOKED_AT, len(paths))
    some = [paths[number * len(paths) // count] for number in range(count)]
    sizes = Counter(read_header(path, f"image {path}").size for path in some)
    (height, width), (least, most) = shape[1:], (min(sizes), max(sizes))
    had = _size(*least) if len(sizes) == 1 else f"{_size(*least)} to {_size(*most)}"
    extent = "" if count == len(paths) else f" (of {count:,} files looked at)"
    if set(sizes) == {(height, width)}:
        return Finding("data", "fine", f"images are {had} pixels and keep that size{extent}")
    why = ", as the teacher expects" if expected else ""
    text = f"images of {had} pixels became {_size(height, width)}{why}{extent}"
    lost = sum(times for size, times in sizes.items() if max(size[0] / height, size[1] / width) >= _MUCH)
    if 2 * lost < count or expected:
        return Finding("data", "fine", text)
    return Finding("data", "note", text, "train --image-size N keeps more of their detail, at a higher cost")


def _size(height: int, width: int) -> str:
    return f"{width}x{height}"
