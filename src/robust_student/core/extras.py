"""Libraries of the optional extras, imported when they are first needed."""

from importlib import import_module
from types import ModuleType

from robust_student.core.errors import UserError


def require(module: str, extra: str, place: str) -> ModuleType:
    """The module; UserError says what `place` needs and which extra to install where it cannot be imported."""
    try:
        return import_module(module)
    except ImportError as error:
        library, reason = module.partition(".")[0], " ".join(str(error).split())
        raise UserError(f"{place}: needs {library} ({reason}); pip install 'robust-student[{extra}]'") from None
