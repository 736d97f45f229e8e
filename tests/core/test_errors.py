"""Complaints offer the nearest choice, and say why a path is no file."""

from pathlib import Path

import pytest

from robust_student.core.errors import UserError, nearest, require_file


def test_nearest_offers_the_closest_choice_or_all_of_them() -> None:
    assert nearest("secnat", ["secant", "kd"]) == "; did you mean 'secant'?"
    assert nearest("zzz", ["secant", "kd"]) == "; choose from kd, secant"


def test_only_a_file_passes_as_one(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    require_file(tmp_path / "file", "cannot read it")
    with pytest.raises(UserError, match=r"^cannot read it \(not a file\)$"):
        require_file(tmp_path, "cannot read it")
    with pytest.raises(UserError, match=r"^cannot read it \(no such file\)$"):
        require_file(tmp_path / "missing", "cannot read it")
    with pytest.raises(UserError, match=r"^cannot read it \(File name too long\)$"):
        require_file(tmp_path / ("long" * 100), "cannot read it")
