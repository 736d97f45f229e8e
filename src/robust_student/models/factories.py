"""A network from the user's own code, `pkg.module:factory` or `file.py:factory`, and whose code may be called."""

import hashlib
import importlib
import importlib.util
import inspect
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from robust_student.core.errors import UserError


def call_factory(spec: str, offered: Mapping[str, Any], hint: str = "") -> nn.Module:
    """What the callable that `spec` names returns for those of the `offered` keywords that it takes.

    Raises UserError, one line that may end with a hint, where it cannot be imported, fails, or returns something other
    than a network.
    """
    module_name, _, factory_name = spec.rpartition(":")
    sys.path.insert(0, str(Path.cwd()))
    try:
        factory = getattr(_import(module_name), factory_name)
    except FileNotFoundError:
        raise UserError(f"model '{spec}': no file {module_name}") from None
    except ImportError as error:
        raise UserError(f"model '{spec}': cannot import module '{module_name}' ({error}){hint}") from None
    except AttributeError:
        raise UserError(f"model '{spec}': module '{module_name}' has no '{factory_name}'") from None
    except (Exception, SystemExit) as error:
        raise UserError(f"model '{spec}': cannot import module '{module_name}' ({_in_a_line(error)})") from None
    finally:
        sys.path.pop(0)
    try:
        accepted = inspect.signature(factory).parameters
        takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in accepted.values())
        network = factory(**{name: value for name, value in offered.items() if takes_any or name in accepted})
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        raise UserError(f"model '{spec}': the factory failed ({_in_a_line(error)})") from None
    if not isinstance(network, nn.Module):
        raise UserError(f"model '{spec}': the factory returned {type(network).__name__}, not a torch.nn.Module")
    return network


def require_own(spec: str, run: Path) -> None:
    """Raise UserError where a run's model.json names code that need not be the user's own.

    Loading such a run would call that code. The user's own is a file below the current directory, from which Python
    imports too, that is neither inside the run itself nor an installed package. Nothing is imported to find out.
    """
    file = _source(spec)
    why = "it is not below the current directory"
    if file is not None and file.resolve().is_relative_to(Path.cwd()):
        if file.resolve().is_relative_to(run.resolve()):
            why = "it came with the run"
        elif _installed(file):
            why = "it is an installed package"
        else:
            return
    raise UserError(
        f"model {run}: its network is the code {spec}, which does not run unasked, because {why}; "
        "if you trust it, pass --trust (trust=True in Python)"
    )


def code_digest(network: nn.Module, spec: str | None) -> str | None:
    """SHA-256 of the user's own source files behind a network; None where there are none.

    They are the factory's that `spec` names and those of the classes of its modules, without installed packages and
    this one.
    """
    factory = None if spec is None else _source(spec)
    files = set() if factory is None else {factory}
    for kind in {type(module) for module in network.modules()}:
        code = getattr(kind.forward, "__code__", None)  # none: compiled
        if code is not None:
            files.add(Path(code.co_filename))
    package = Path(__file__).resolve().parents[1]
    own = [
        file for file in files if file.is_file() and not _installed(file) and not file.resolve().is_relative_to(package)
    ]
    checksums = sorted({hashlib.sha256(file.read_bytes()).hexdigest() for file in own})
    return hashlib.sha256(" ".join(checksums).encode()).hexdigest() if own else None


def _source(spec: str) -> Path | None:
    """The file that holds the factory of a spec."""
    module_name = spec.rpartition(":")[0]
    return Path(module_name) if module_name.endswith(".py") else _file_of(module_name)


def _installed(file: Path) -> bool:
    """Whether a file is one of Python's or of an installed package."""
    places = (sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib"))
    return any(file.resolve().is_relative_to(Path(place).resolve()) for place in places)


def _file_of(module_name: str) -> Path | None:
    """The file that importing a module would run, found without importing any of its packages; None: not found."""
    spec = sys.modules[module_name].__spec__ if module_name in sys.modules else None
    first, *rest = module_name.split(".")
    if spec is None and first.isidentifier():
        where = [str(Path.cwd()), *sys.path]
        spec = next(filter(None, (finder.find_spec(first, where) for finder in sys.meta_path)), None)
        if spec is not None and rest:
            below = [Path(place, *rest) for place in spec.submodule_search_locations or []]
            files = [file for path in below for file in (path / "__init__.py", path.with_suffix(".py"))]
            return next((file for file in files if file.is_file()), None)
    return Path(spec.origin) if spec is not None and spec.origin is not None and spec.has_location else None


def _import(name: str) -> ModuleType:
    """A module by its dotted name, or from a file whose name ends in .py."""
    if not name.endswith(".py"):
        return importlib.import_module(name)
    path = Path(name)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None  # the suffix is .py
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _in_a_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
