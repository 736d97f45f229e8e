"""A teacher of the digits, and a check-up without its slowest part."""

from pathlib import Path

import pytest

from robust_student.cli.main import main
from robust_student.data.readers.load import Data, load_data
from robust_student.doctor import examine as examine_module
from robust_student.doctor.findings import Finding


@pytest.fixture(scope="session")
def digits() -> Data:
    return load_data("digits")


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory of a teacher of the digits."""
    output = tmp_path_factory.mktemp("doctor") / "teacher"
    main(
        ["train", "--data", "digits", "--model", "mlp:16", "--epochs", "3", "--device", "cpu", "--output", str(output)]
    )
    return output


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without importing every extra."""
    monkeypatch.setattr(examine_module, "check_packages", lambda: [Finding("packages", "fine", "all there")])
