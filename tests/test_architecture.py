"""The import direction: every room may import the rooms before it in this list, never one after it."""

import ast
from pathlib import Path

import pytest

import robust_student

ROOMS = [
    *(
        "tensors",
        "limits",
        "findings",
        "draws",
        "norms",
        "margins",
        "settings",
        "teacher_settings",
        "measurement_settings",
        "bounds",
        "smoothing",
    ),
    *("activations", "operations", "steps", "translations", "graph", "regions", "propagation", "certificates"),
    *(
        "ascent",
        "slopes",
        "passes",
        "objective",
        "augmentation",
        "supervised",
        "perturbations",
        "attacks",
        "borrowed_attacks",
    ),
    *("feasible", "apgd", "fab", "square", "autoattack", "smallest"),
    *("resampling", "corruption_noise", "corruption_blur", "corruption_weather", "corruption_digital", "corruptions"),
    *("convnets", "perceptrons", "resnets", "fitnets", "mobilenets"),
    *("intake", "outputs", "resizing", "weights", "factories", "libraries", "hub", "models"),
    *("streams", "examples", "samples", "specs", "pictures", "caches", "decoding"),
    *("idx", "arrays", "folders", "parquet", "pickles", "cifar", "tables"),
    *("huggingface", "torch_datasets", "shards", "webdatasets", "huggingface_streams", "data"),
    *(
        "files",
        "progress",
        "provenance",
        "devices",
        "cards",
        "runs",
        "fingerprints",
        "programs",
        "sources",
        "teachers",
        "parallel",
        "validation",
        "checkpoints",
        "unfinished",
        "feed",
        "guide",
    ),
    *("optimisation", "interruption", "tracking", "loop", "training", "search"),
    *("machine_checks", "data_checks", "teacher_checks", "doctor"),
    *("intervals", "comparison", "calibration", "results", "breakdown", "masking", "sandwich"),
    *("measurements", "masking_checks", "corruption_sets", "corruption_measurements"),
    *("costs", "layouts", "ledger", "gallery", "evaluation", "certification"),
    *("figures", "pages", "certificate_report", "saved", "evidence", "sections", "overview", "side_by_side", "seeds"),
    *(
        "report",
        "demo",
        "flags",
        "help_text",
        "arguments",
        "terminal",
        "checkup",
        "workers",
        "measuring",
        "cli",
        "__main__",
    ),
]
STATISTICS = {"breakdown", "calibration", "comparison", "intervals", "results", "tensors"}
"""Rooms that compute with saved rows and records; none of them can run a model."""
ONLY = {
    "comparison": {"intervals"},
    "calibration": {"intervals"},
    "results": {"calibration", "comparison", "intervals"},
    "breakdown": {"calibration", "results"},
    "figures": {"calibration", "results", "tensors"},
    "pages": {"comparison", "figures", "files", "results", "tensors"},
    "certificate_report": {"figures", "intervals", "pages", "results", "sandwich", "tensors"},
    "saved": {"results"},
    "evidence": STATISTICS | {"figures", "masking", "pages", "saved"},
    "sections": set[str](),
    "overview": STATISTICS | {"certificate_report", "evidence", "pages", "sections"},
    "side_by_side": STATISTICS | {"evidence", "overview", "pages", "sections"},
    "seeds": STATISTICS | {"evidence", "overview", "pages", "sections"},
    "report": {
        *("certificate_report", "evidence", "files", "overview", "pages", "results", "sections", "seeds"),
        *("side_by_side", "tensors"),
    },
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
    assert room == "arguments" or not any(word in source for word in ("argparse", "tyro", "sys.argv"))
