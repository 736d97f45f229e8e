"""What the terminal shows."""

import json
import subprocess
import sys
from pathlib import Path

from command_line import TRAIN


def test_output_is_plain_where_there_is_no_terminal(teacher: Path, tmp_path: Path) -> None:
    words = ["-m", "robust_student", "train", *TRAIN, "--output", str(tmp_path / "run")]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert "\x1b" not in done.stdout
    assert done.stdout.splitlines()[-1] == f"model: {tmp_path / 'run'}"
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 2
    card = json.loads((tmp_path / "run" / "model.json").read_text())
    assert card["provenance"]["seed"] == 0
