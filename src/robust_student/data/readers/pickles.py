"""Pickled arrays of published data sets, read without running what a pickle may ask for."""

import io
import pickle
import pickletools
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from robust_student.core.errors import UserError, require_file

_OPCODES = frozenset(
    re.findall(
        r"\w+",
        """
        PROTO FRAME STOP MARK NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT BINSTRING SHORT_BINSTRING
        BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8 BINUNICODE SHORT_BINUNICODE BINUNICODE8 EMPTY_LIST APPEND APPENDS
        EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_DICT SETITEM SETITEMS BINPUT LONG_BINPUT MEMOIZE BINGET
        LONG_BINGET GLOBAL STACK_GLOBAL REDUCE BUILD
        """,
    )
)
"""What a pickle (protocol 2 to 5) of dicts, lists, strings, numbers and arrays consists of, and nothing else."""
_MOST_NAMES, _MOST_CALLS, _MOST_VALUES = 1_000_000, 1_000, 1_000_000
"""Places of the memo, calls of a stand-in, values in the result: more only serve to exhaust the memory."""
_TYPES = {f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8)} | {"f4", "f8", "b1"}


class _Array:
    """Stands for a numpy array while it is read."""

    array: npt.NDArray[Any] | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, columns_first, content = state
        self.array = _array(content, kind, shape, "F" if columns_first else "C")


class _Type:
    """Stands for a numpy dtype while it is read."""

    def __init__(self, name: Any) -> None:
        self.name, self.order = _text(name), "<"
        if self.name not in _TYPES:
            raise pickle.UnpicklingError(f"an array of {self.name}")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = ">" if _text(state[1]) == ">" else "<"


class _Unpickler(pickle.Unpickler):
    """Knows plain values and numpy arrays; every other name is refused."""

    def find_class(self, module: str, name: str) -> Any:
        """A stand-in for the parts of numpy that a pickled array names, made anew so that none can be altered."""
        module = module.replace("numpy._core", "numpy.core")
        allowed: dict[tuple[str, str], Callable[..., Any] | str] = {
            ("numpy.core.multiarray", "_reconstruct"): lambda kind, shape, letter: _Array(),
            ("numpy.core.numeric", "_frombuffer"): lambda *state: _frombuffer(*state),
            ("numpy", "ndarray"): "ndarray",
            ("numpy", "dtype"): lambda name, align=False, copy=False: _Type(name),
            ("_codecs", "encode"): lambda text, encoding: _encode(text, encoding),
        }
        if (module, name) not in allowed:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no array needs")
        return allowed[module, name]


def read_pickle(path: Path) -> Any:
    """The dicts, lists, strings, bytes, numbers and arrays of a pickle; strings of Python 2 become text.

    Nothing is imported or called: arrays are built from their bytes by stand-ins, and a pickle that names anything
    else is refused. Raises UserError.
    """
    require_file(path, f"data file {path}: cannot read it")
    try:
        content = path.read_bytes()
        _inspect(content)
        return _plain(_Unpickler(io.BytesIO(content), encoding="bytes").load(), iter(range(_MOST_VALUES)))
    except OSError as error:
        raise UserError(f"data file {path}: cannot read it ({error.strerror})") from None
    except Exception as error:  # whatever a damaged or hostile file makes of the reader
        reason = " ".join(f"{type(error).__name__} {error}".split())[:200]
        raise UserError(f"data file {path}: not a pickle of plain values and arrays ({reason})") from None


def _inspect(content: bytes) -> None:
    """Refuse a pickle by its opcodes, before any of them is carried out."""
    calls = 0
    for operation, argument, _ in pickletools.genops(content):
        calls += operation.name == "REDUCE"
        if operation.name not in _OPCODES:
            raise pickle.UnpicklingError(f"it makes other objects ({operation.name})")
        if calls > _MOST_CALLS or ("BINPUT" in operation.name and int(argument or 0) > _MOST_NAMES):
            raise pickle.UnpicklingError("it would take too much memory")


def _frombuffer(content: Any, kind: Any, shape: Any, order: Any) -> _Array:
    result = _Array()
    result.array = _array(content, kind, shape, _text(order))
    return result


def _encode(text: Any, encoding: Any) -> bytes:
    if not isinstance(text, str):
        raise pickle.UnpicklingError("it encodes what is no text")
    return text.encode("latin-1")


def _array(content: Any, kind: Any, shape: Any, order: str) -> npt.NDArray[Any]:
    if not isinstance(kind, _Type) or not isinstance(content, bytes | bytearray) or order not in ("C", "F"):
        raise pickle.UnpicklingError("an array without type or bytes")
    flat = np.frombuffer(content, np.dtype(kind.order + kind.name))
    return flat.reshape(tuple(int(side) for side in shape), order="F" if order == "F" else "C")


def _plain(value: Any, left: Iterator[int]) -> Any:
    """The value with arrays for their stand-ins and text for the strings of Python 2; at most as many as are left."""
    if next(left, None) is None:
        raise pickle.UnpicklingError("it holds too many values")
    if isinstance(value, _Array) and value.array is not None:
        return value.array
    if isinstance(value, dict):
        return {_text(key): _plain(entry, left) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry, left) for entry in value]
    if isinstance(value, bytes):
        return _text(value)
    if value is None or isinstance(value, str | int | float | bool | bytearray):
        return value
    raise pickle.UnpicklingError(f"a value of type {type(value).__name__}")


def _text(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)
