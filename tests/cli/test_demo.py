"""The command demo."""

from pathlib import Path

import pytest
from command_line import refused


def test_demo_replaces_only_the_result_of_a_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "precious.txt").write_text("keep me")
    assert "exists already" in refused(capsys, "demo", "--output", tmp_path)
    assert "not the result of a demo" in refused(capsys, "demo", "--overwrite", "--output", tmp_path)
    assert (tmp_path / "precious.txt").read_text() == "keep me"
