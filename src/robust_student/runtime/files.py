"""Files that are whole or not there at all: atomic writing, JSON, directories that appear when complete."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from robust_student.core.errors import UserError, require_file, short


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A fresh directory to fill that takes the place of `path` only when the block ends well.

    Whatever was at `path` is kept until then. Raises UserError where it cannot be written or replaced.
    """
    require_writable(path)
    if path.exists() and (path.resolve() == Path.cwd() or path.is_mount()):
        what = "is the current directory" if path.resolve() == Path.cwd() else "is where a disk is mounted"
        raise UserError(f"output {path}: {what}, which cannot be replaced; name a new directory in it")
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield draft
        draft.chmod(0o755)
        if path.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{path.name}.old.", dir=path.parent))
            path.rename(old / "replaced")
            draft.rename(path)
            shutil.rmtree(old)
        else:
            draft.rename(path)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def require_writable(path: Path) -> None:
    """Raise UserError where a directory cannot be made or filled at `path`; makes nothing."""
    if path.exists() and not path.is_dir():
        what = "a file, not a directory" if path.is_file() else "neither a file nor a directory; choose another name"
        raise UserError(f"output {path}: is {what}")
    for place in (path, *path.parents):
        if place.is_symlink() and not place.exists():
            whose = "" if place == path else f"{place} "
            raise UserError(f"output {path}: {whose}is a link to nothing; remove it or choose another name")
    nearest = next((folder for folder in (path, *path.absolute().parents) if folder.exists()), Path.cwd())
    try:
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        raise UserError(f"output {path}: cannot write there ({error.strerror})") from None
    except ValueError:
        raise UserError(f"output {short(str(path))}: is not the name of a directory") from None


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a reader or a crash sees the old content or the new one, never a part."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        try:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            Path(file.name).chmod(0o644)
            Path(file.name).replace(path)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, indented; NaN and infinity are errors."""
    write_atomically(path, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """Parse a JSON file; one-line UserError where it is missing or malformed."""
    require_file(path, f"file {path}: cannot read it")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"file {path}: cannot read it ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"file {path}: not valid JSON ({str(error)[:200]})") from None


def append_jsonl(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Add rows to a JSON-lines file in one write."""
    with path.open("a", encoding="utf-8") as file:
        file.write("".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Rows of a JSON-lines file; a last line cut short by a crash is dropped, any other bad line is a UserError."""
    require_file(path, f"file {path}: cannot read it")
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise UserError(f"file {path}: cannot read it ({error.strerror})") from None
    return parse_jsonl(text, path)


def parse_jsonl(text: str, path: Path) -> list[dict[str, Any]]:
    """Rows in the text of a JSON-lines file, as `read_jsonl` reads them."""
    rows = []
    lines = text.split("\n")
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            if number == len(lines):
                break
            raise UserError(f"file {path}: line {number} is not valid JSON") from None
        if not isinstance(row, dict):
            raise UserError(f"file {path}: line {number} is not a JSON object")
        rows.append(row)
    return rows
