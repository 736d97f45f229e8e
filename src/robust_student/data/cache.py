"""Decoded pixels on disk: written once, checked when opened, and mapped into memory."""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import PIL
import torch
from torch import Tensor

from robust_student.core.errors import UserError
from robust_student.core.tensors import Pixels, Shape

_IN_MEMORY = 256 * 2**20
"""Bytes of pixels up to which a part of a set is held in memory; larger parts are mapped from a file."""
_KEPT = 10_000
"""Images from which on decoded pixels are kept in a file even if they fit into memory."""
_BLOCK = 16 * 2**20
"""Bytes per checksum of a cache file."""
_CHECKED_BYTES = 4 * 2**30
"""Bytes of a cache file that are compared with their checksums when it is opened, in evenly spread blocks."""
VARIABLE = "ROBUST_STUDENT_CACHE"
"""Environment variable that names the cache directory."""
_VERSION = 1  # of what is written: another one makes another key


class Stored(NamedTuple):
    """Pixels `(n, *shape)` as uint8, in memory or mapped."""

    inputs: Tensor
    mapped: bool
    content: str | None
    """Digest of mapped pixels; None in memory, where a digest must not depend on there being a cache."""


def cache_directory() -> Path:
    """$ROBUST_STUDENT_CACHE, else robust-student in $XDG_CACHE_HOME, else ~/.cache/robust-student."""
    if os.environ.get(VARIABLE):
        return Path(os.environ[VARIABLE]).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "robust-student"


class _CacheError(UserError):
    """The cache directory cannot be used."""


def store(shape: Shape, blocks: Callable[[], Iterable[Pixels]], key: Mapping[str, Any] | None) -> Stored:
    """The pixels `(n, *shape)` that `blocks` yields in order, in memory up to _IN_MEMORY, else mapped from a file.

    _KEPT or more rows are written to a file even if they fit into memory: reading it is faster than decoding again.

    Args:
        shape: of all of them together; `blocks` yields arrays of whole rows that add up to it.
        blocks: makes the pixels; not called where a sound file with the same key is there already.
        key: all that the pixels depend on, as JSON values; None: the file is for this process only.

    A file that is damaged or half written is made anew. Raises UserError where the disk is full or not writable;
    nothing half-written is left then.
    """
    if int(np.prod(shape)) > _IN_MEMORY:
        return _mapped(shape, blocks, key)
    if key is not None and shape[0] >= _KEPT:
        with contextlib.suppress(_CacheError):  # then without it
            return Stored(_mapped(shape, blocks, key).inputs.clone(), mapped=False, content=None)
    return Stored(_gathered(shape, blocks()), mapped=False, content=None)


def remember(key: Mapping[str, Any], compute: Callable[[], Any]) -> Any:
    """A JSON value that takes long to compute, kept in the cache directory under its key where that is writable."""
    path = cache_directory() / f"{_name(key, ())}.json"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        return json.loads(path.read_text(encoding="utf-8"))["value"]
    value = compute()
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        _replace(path, json.dumps({"value": value}).encode())
    return value


def stamps(paths: Iterable[Path]) -> list[tuple[str, int, int]]:
    """Name, size in bytes and time of change in nanoseconds of each file; UserError names one that is not there."""
    entries = []
    for path in paths:
        try:
            status = path.stat()
        except OSError as error:
            raise UserError(f"data file {path}: cannot read it ({error.strerror})") from None
        entries.append((str(path.absolute()), status.st_size, status.st_mtime_ns))
    return entries


def _gathered(shape: Shape, blocks: Iterable[Pixels]) -> Tensor:
    pixels = np.empty(shape, np.uint8)
    row = 0
    for block in blocks:
        pixels[row : row + len(block)] = block
        row += len(block)
    assert row == len(pixels)
    return torch.from_numpy(pixels)


def _mapped(shape: Shape, blocks: Callable[[], Iterable[Pixels]], key: Mapping[str, Any] | None) -> Stored:
    """The pixels mapped from a file of the cache, which is made where it is not there."""
    folder, total = cache_directory(), int(np.prod(shape))
    with _writing(folder, total):
        folder.mkdir(parents=True, exist_ok=True)
    if key is None:
        with _writing(folder, total):
            file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        with file:
            checksums = _write(file, blocks(), folder, total)
            return Stored(_map(file, shape), mapped=True, content=_content(shape, checksums))
    path = folder / f"{_name(key, shape)}.pixels"
    stored = _opened(path, shape)
    if stored is None:
        with _alone(path, total):
            stored = _opened(path, shape) or _made(path, shape, blocks)
    return stored


def _opened(path: Path, shape: Shape) -> Stored | None:
    """The pixels of a sound cache file; None where there is none, or it is damaged."""
    try:
        checksums = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))["checksums"]
        total = int(np.prod(shape))
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size != total or len(checksums) != -(-total // _BLOCK):
                return None
            for k in range(0, len(checksums), max(1, -(-len(checksums) * _BLOCK // _CHECKED_BYTES))):
                file.seek(k * _BLOCK)
                if hashlib.sha256(file.read(_BLOCK)).hexdigest() != checksums[k]:
                    return None
            return Stored(_map(file, shape), mapped=True, content=_content(shape, checksums))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _made(path: Path, shape: Shape, blocks: Callable[[], Iterable[Pixels]]) -> Stored:
    """Write the file and then its checksums: without them it does not count."""
    folder, total = path.parent, int(np.prod(shape))
    with _writing(folder, total):
        for old in (path, path.with_suffix(".json"), *folder.glob(f"{path.stem}.*.partial")):
            old.unlink(missing_ok=True)
        handle, name = tempfile.mkstemp(prefix=f"{path.stem}.", suffix=".partial", dir=folder)
    try:
        with os.fdopen(handle, "w+b") as file:
            checksums = _write(file, blocks(), folder, total)
        with _writing(folder, total):
            Path(name).replace(path)
            _replace(path.with_suffix(".json"), json.dumps({"shape": shape, "checksums": checksums}).encode())
    finally:
        Path(name).unlink(missing_ok=True)
    with path.open("rb") as file:
        return Stored(_map(file, shape), mapped=True, content=_content(shape, checksums))


def _write(file: BinaryIO, blocks: Iterable[Pixels], folder: Path, total: int) -> list[str]:
    """Append all blocks to the file; the SHA-256 of every _BLOCK bytes."""
    checksums, current, filled, written = [], hashlib.sha256(), 0, 0
    for block in blocks:
        data = np.ascontiguousarray(block).reshape(-1).data
        with _writing(folder, total):
            file.write(data)
        written += len(data)
        while len(data):
            piece = data[: _BLOCK - filled]
            current.update(piece)
            data, filled = data[len(piece) :], filled + len(piece)
            if filled == _BLOCK:
                checksums.append(current.hexdigest())
                current, filled = hashlib.sha256(), 0
    with _writing(folder, total):
        file.flush()
        os.fsync(file.fileno())
    assert written == total
    return checksums + ([current.hexdigest()] if filled else [])


def _map(file: BinaryIO, shape: Shape) -> Tensor:
    """The file's pixels, mapped: read when they are looked at, private to this process when they are written."""
    return torch.from_numpy(np.memmap(file, np.uint8, mode="c", shape=shape))


def _replace(path: Path, content: bytes) -> None:
    """Write a small file so that it is there whole or not at all."""
    handle, name = tempfile.mkstemp(prefix=f"{path.stem}.", suffix=".partial", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    finally:
        Path(name).unlink(missing_ok=True)


def _content(shape: Shape, checksums: list[str]) -> str:
    return hashlib.sha256(json.dumps([list(shape), checksums]).encode()).hexdigest()


def _name(key: Mapping[str, Any], shape: Shape) -> str:
    everything = {"version": _VERSION, "pillow": PIL.__version__, "shape": list(shape), **key}
    return hashlib.sha256(json.dumps(everything, sort_keys=True).encode("utf-8", "surrogateescape")).hexdigest()[:40]


@contextlib.contextmanager
def _alone(path: Path, total: int) -> Iterator[None]:
    """Only one process at a time makes a file; the lock of one that was killed is free at once (POSIX)."""
    try:
        import fcntl
    except ImportError:  # Windows: two processes would both make the file, and one of them wins
        yield
        return
    with _writing(path.parent, total):
        lock = path.with_suffix(".lock").open("wb")
    with lock:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _writing(folder: Path, total: int) -> Iterator[None]:
    """Turn what the disk refuses into one line that says what to do."""
    remedy = f"set {VARIABLE} to a directory with room"
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            room = f"{total / 1e9:.1f} GB of decoded images, {shutil.disk_usage(folder).free / 1e9:.1f} GB free"
            raise _CacheError(f"cache {folder}: disk full ({room}); {remedy}") from None
        raise _CacheError(f"cache {folder}: cannot write there ({error.strerror or error}); {remedy}") from None
