"""No module imports itself by a detour."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import robust_student

PACKAGE = Path(robust_student.__file__).parent
MODULES = {".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts) for path in PACKAGE.rglob("*.py")}


def imported(module: str) -> set[str]:
    path = PACKAGE.parent / Path(*module.split(".")).with_suffix(".py")
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "robust_student":
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= inner & MODULES or {node.module or ""}
    return names


def test_no_module_imports_itself_by_a_detour() -> None:
    tuple(TopologicalSorter({module: imported(module) for module in MODULES}).static_order())  # raises CycleError
