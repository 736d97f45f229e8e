"""Where a result comes from."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch


def provenance(settings: dict[str, Any], data: str, seed: int) -> dict[str, Any]:
    """Where a result comes from: version, commit, seed, settings, data, hardware, versions, time (UTC)."""
    return {
        "version": version("robust-student"),
        "git_commit": _git_commit(),
        "seed": seed,
        "settings": settings,
        "data": data,
        "hardware": f"{platform.machine()}, {os.cpu_count()} CPU cores, {_accelerator()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _git_commit() -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _accelerator() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return "MPS" if torch.backends.mps.is_available() else "no accelerator"
