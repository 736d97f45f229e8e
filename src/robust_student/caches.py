"""Where things that can be computed again are kept between runs."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """`$ROBUST_STUDENT_CACHE`, else `robust-student` in the user's cache directory (XDG); it may not exist yet."""
    own = os.environ.get("ROBUST_STUDENT_CACHE")
    if own:
        return Path(own)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "robust-student"
