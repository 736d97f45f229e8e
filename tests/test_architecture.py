"""The import direction: every room may import the rooms before it in this list, never one after it."""

import ast
from pathlib import Path

import pytest

import robust_student

ROOMS = [
    *("tensors", "norms", "margins", "settings", "bounds", "smoothing"),
    *("activations", "operations", "steps", "translations", "graph", "regions", "propagation", "certificates"),
    *("ascent", "slopes", "objective", "perturbations", "attacks", "smallest"),
    *("models", "weights", "parquet", "data", "runs", "validation", "training", "search"),
    *("intervals", "results", "masking", "sandwich"),
    *("measurements", "masking_checks", "costs", "ledger", "gallery", "evaluation", "certification"),
    *("figures", "pages", "certificate_report", "report", "demo", "cli", "__main__"),
]
ONLY = {
    "figures": {"results", "tensors"},
    "pages": {"figures", "results", "runs", "tensors"},
    "certificate_report": {"figures", "intervals", "pages", "results", "sandwich", "tensors"},
    "report": {"certificate_report", "figures", "pages", "results", "runs", "tensors"},
}
"""Rooms that may import even less: the report renders saved rows, so it must not be able to compute a number."""
PACKAGE = Path(robust_student.__file__).parent


def imported_rooms(room: str) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse((PACKAGE / f"{room}.py").read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("robust_student"):
            _, _, rest = (node.module or "").partition(".")
            found |= {rest} if rest else {alias.name for alias in node.names}
        if isinstance(node, ast.Import):
            found |= {a.name.partition(".")[2] for a in node.names if a.name.startswith("robust_student")}
    return found


def test_the_list_names_every_room() -> None:
    assert sorted(ROOMS) == sorted(path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__")


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_rooms_before_it(room: str) -> None:
    allowed = ONLY.get(room, set(ROOMS[: ROOMS.index(room)]))
    assert imported_rooms(room) <= allowed


@pytest.mark.parametrize("room", ROOMS)
def test_only_the_command_line_parses_arguments(room: str) -> None:
    source = (PACKAGE / f"{room}.py").read_text(encoding="utf-8")
    assert room == "cli" or not any(word in source for word in ("argparse", "tyro", "sys.argv"))
