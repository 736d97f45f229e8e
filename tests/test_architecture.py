"""The layout: folders on floors, imports only downwards, no circle, and the map in CONTRIBUTING says the same."""

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import robust_student

FLOORS: tuple[tuple[str, ...], ...] = (
    ("core",),
    ("runtime", "results", "corruptions", "bounds", "attacks"),
    ("data", "report/document"),
    ("data/readers", "models/networks", "report/evidence"),
    ("models", "objectives", "report/sections"),
    ("training", "report"),
    ("evaluation",),
    ("doctor",),
    ("cli",),
)
"""The folders of the package, the lowest floor first; a folder may import the floors below its own."""
SAVED = {"core", "runtime/files", "results"}
ONLY = {
    "results": {"core"},
    "report/document": SAVED,
    "report/evidence": SAVED | {"report/document"},
    "report/sections": SAVED | {"report/document", "report/evidence"},
    "report": SAVED | {"report/document", "report/evidence", "report/sections"},
}
"""Folders that may import even less: a report shows saved rows and records, so it must not be able to run a model."""
PACKAGE = Path(robust_student.__file__).parent
ROOT = PACKAGE.parents[1]
TESTS = Path(__file__).parent
FOLDERS = [folder for floor in FLOORS for folder in floor]
MODULES = sorted(
    path.relative_to(PACKAGE).with_suffix("").as_posix() for path in PACKAGE.rglob("*.py") if path.name != "__init__.py"
)


def folder_of(module: str) -> str:
    return module.rpartition("/")[0]


def floor_of(folder: str) -> int:
    return next(number for number, floor in enumerate(FLOORS) if folder in floor)


def imported(module: str) -> set[str]:
    """Modules of the package that a module imports anywhere, late imports included."""
    names = set()
    for node in ast.walk(ast.parse((PACKAGE / f"{module}.py").read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "robust_student":
            place = (node.module or "").partition(".")[2].replace(".", "/")
            names |= {f"{place}/{alias.name}" if f"{place}/{alias.name}" in MODULES else place for alias in node.names}
        if isinstance(node, ast.Import):
            imported_names = [alias.name for alias in node.names if alias.name.startswith("robust_student.")]
            names |= {name.partition(".")[2].replace(".", "/") for name in imported_names}
    return names


def test_every_module_lies_in_a_folder_of_the_table() -> None:
    assert {folder_of(module) for module in MODULES if module != "__main__"} == set(FOLDERS)


def test_folders_hand_nothing_on() -> None:
    texts = {path: path.read_text(encoding="utf-8") for path in PACKAGE.rglob("__init__.py")}
    assert [path for path, text in texts.items() if text and path.parent != PACKAGE] == []


@pytest.mark.parametrize("module", [module for module in MODULES if module != "__main__"])
def test_imports_go_downwards(module: str) -> None:
    folder = folder_of(module)
    for other in imported(module):
        assert other in MODULES, f"{module} imports {other or 'the package itself'}: name the module"
        if folder_of(other) == folder:
            continue
        assert floor_of(folder_of(other)) < floor_of(folder), f"{module} imports {other}, which is not below it"
        if folder in ONLY:
            assert other in ONLY[folder] or folder_of(other) in ONLY[folder], f"{module} must not import {other}"


def test_no_module_imports_itself_by_a_detour() -> None:
    tuple(TopologicalSorter({module: imported(module) for module in MODULES}).static_order())  # raises CycleError


@pytest.mark.parametrize("module", MODULES)
def test_only_the_command_line_parses_arguments(module: str) -> None:
    source = (PACKAGE / f"{module}.py").read_text(encoding="utf-8")
    assert module in ("cli/arguments", "cli/completion", "cli/flags") or not any(
        word in source for word in ("argparse", "sys.argv")
    )


def test_contributing_shows_this_table() -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d) \| `([\w/]+)` \| [^|]+ \| ([^|]+) \|$", page, flags=re.MULTILINE)
    assert [(int(floor) - 1, folder) for floor, folder, _ in rows] == [
        (number, folder) for number, floor in enumerate(FLOORS) for folder in floor
    ]
    for _, folder, files in rows:
        inside = {module.rpartition("/")[2] for module in MODULES if folder_of(module) == folder}
        assert set(files.split(", ")) == inside, f"the files of {folder}"


def test_tests_mirror_the_folders() -> None:
    for path in TESTS.rglob("test_*.py"):
        folder = path.parent.relative_to(TESTS).as_posix()
        if folder != ".":
            name = path.stem.removeprefix("test_")
            inside = {module.rpartition("/")[2] for module in MODULES if folder_of(module) == folder}
            matches = [module for module in inside if name == module or name.startswith(f"{module}_")]
            assert matches, f"{path.relative_to(TESTS)}: no module of {folder} begins its name"


def test_no_test_file_imports_another() -> None:
    for path in TESTS.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            module = node.module or "" if isinstance(node, ast.ImportFrom) else ""
            shared = not module.rpartition(".")[2].startswith("test_")
            assert shared, f"{path.relative_to(TESTS)} imports {module}: what tests share is a helper module in tests/"
