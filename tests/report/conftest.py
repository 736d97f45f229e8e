"""A report of an evaluation, made and parsed."""

from collections.abc import Callable
from pathlib import Path

import pytest
from parsed_page import Page
from saved_evaluation import Files, files, folder, html, marked


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
