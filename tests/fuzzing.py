"""Damage of every kind, and the proof that it is read or refused in one line within bounded memory."""

import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from robust_student.core.errors import UserError

Edit = tuple[float, int, bytes]
"""Where, as a share of the file; how many bytes go; what comes in their place."""
SEVERAL = settings(max_examples=60, suppress_health_check=list(HealthCheck))
FEW = settings(max_examples=20, suppress_health_check=list(HealthCheck))
EXTREMES = [b"\x00" * 4, b"\xff" * 4, b"\x7f\xff\xff\xff", b"\xff" * 8, b"-1", b"1e999", b"[" * 1100, b"\n"]
EDITS = st.lists(
    st.tuples(st.floats(0, 1), st.integers(0, 8), st.binary(max_size=8) | st.sampled_from(EXTREMES)), max_size=6
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["l2", "all"])
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)


@contextmanager
def bounded() -> Iterator[None]:
    """Two gigabytes of memory more than now, and no more: a giant allocation fails the test instead of the machine."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    if sys.platform == "linux":
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 2_000_000_000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def read_or_refused(action: Callable[[], object]) -> None:
    """Whatever else than a one-line UserError escapes is a failure."""
    try:
        with bounded():
            action()
    except UserError as error:
        assert len(str(error).splitlines()) == 1


def damaged(content: bytes, edits: list[Edit]) -> bytes:
    """A file's content with some bytes replaced, inserted or removed, or its end cut off."""
    for share, gone, come in edits:
        at = int(share * len(content))
        content = content[:at] + come + content[at + gone :] if gone or come else content[:at]
    return content
