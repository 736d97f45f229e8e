"""A report of an evaluation, made and parsed."""

import importlib
import pickle
import pkgutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from parsed_page import Page
from saved_evaluation import Files, files, folder, html, marked

from robust_student.report import sections
from robust_student.report.document import figures


def once(draw: Callable[..., str]) -> Callable[..., str]:
    """A function that remembers what it drew."""
    drawn: dict[bytes, str] = {}

    def remembered(*args: Any, **named: Any) -> str:
        key = pickle.dumps((args, named))
        if key not in drawn:
            drawn[key] = draw(*args, **named)
        return drawn[key]

    return remembered


@pytest.fixture(scope="session", autouse=True)
def _figures_are_drawn_once() -> Iterator[None]:
    """Pages of nearly the same files share most figures, and drawing takes nearly all the time of a page."""
    with pytest.MonkeyPatch.context() as patch:
        for entry in pkgutil.iter_modules(sections.__path__):
            module = importlib.import_module(f"{sections.__name__}.{entry.name}")
            for name, value in list(vars(module).items()):
                if getattr(value, "__module__", "") == figures.__name__ and name.endswith("_figure"):
                    patch.setattr(module, name, once(value))
        yield


@pytest.fixture
def page(tmp_path: Path) -> Callable[..., Page]:
    """Makes and parses the report of changed files."""

    def make(content: Files | None = None) -> Page:
        return Page(html(tmp_path, files() if content is None else content))

    return make


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    """Two evaluations on the same examples; in the second one `robust` is what `kd` is in the first."""
    first = folder(tmp_path / "first", marked(files()))
    return first, folder(tmp_path / "second", marked(files({"kd": "robust", "teacher": "other"}), suffix="2"))
