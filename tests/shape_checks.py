"""Types and shapes are checked at the first calls of each function in a test, and at every fiftieth after that.

Checking a call costs more than the arithmetic on a tiny tensor, and attacks call the same functions thousands of times.
Import this before the package. With CHECK_EVERY_CALL=1 every call is checked.
"""

import functools
import inspect
import os
from collections import Counter
from collections.abc import Callable
from types import CodeType
from typing import Any

import jaxtyping

FIRST, LATER = 20, 50
"""Calls of a function that are checked at the start of a test, and the period after that."""
_every_call = jaxtyping.jaxtyped
_calls: Counter[CodeType] = Counter()


def begin() -> None:
    """A new test: the first calls are checked again."""
    _calls.clear()


def _now_and_then(*, typechecker: Any) -> Callable[[Any], Any]:
    """What jaxtyping's import hook puts on every function and class of the package, in place of `jaxtyped`."""

    def decorate(target: Any) -> Any:
        if not inspect.isfunction(target):
            return _every_call(typechecker=typechecker)(target)
        checked: Any = None  # made when it is needed: that takes milliseconds, and closures are defined at every call
        code = target.__code__

        @functools.wraps(target)
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal checked
            _calls[code] += 1
            if _calls[code] > FIRST and _calls[code] % LATER:
                return target(*args, **kwargs)
            checked = checked or _every_call(typechecker=typechecker)(target)
            return checked(*args, **kwargs)

        return call

    return decorate


if os.environ.get("CHECK_EVERY_CALL") != "1":
    jaxtyping.jaxtyped = _now_and_then  # type: ignore[assignment]
