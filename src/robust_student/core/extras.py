"""Libraries of the optional extras, imported when they are first needed."""

import re
from importlib import import_module
from importlib.metadata import version
from types import ModuleType

from robust_student.core.errors import UserError


def require(module: str, extra: str, place: str) -> ModuleType:
    """The module; UserError says what `place` needs and which extra to install where it cannot be imported."""
    try:
        return import_module(module)
    except ImportError as error:
        library, reason = module.partition(".")[0], " ".join(str(error).split())
        raise UserError(f"{place}: needs {library} ({reason}); pip install 'robust-student[{extra}]'") from None


def fix_for_torchvision() -> str:
    """What to do where torchvision's operators are missing: it was built for another torch than the installed one.

    Wheels of both lie in one index for each platform, whose name is the end of torch's version (2.9.0+cpu).
    """
    kind = re.search(r"\+(cpu|cu\d+|rocm[\d.]+|xpu)$", version("torch"))
    index = f" --index-url https://download.pytorch.org/whl/{kind[1]}" if kind else ""
    return f"install the torchvision that belongs to this torch: pip install --force-reinstall torch torchvision{index}"
