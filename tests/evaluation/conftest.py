"""Evaluations that are complete, for tests that only read them."""

from pathlib import Path

import pytest
from toy_evaluation import ATTACKED, run


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete evaluation without AutoAttack."""
    output = tmp_path_factory.mktemp("finished") / "evaluation"
    run(output)
    return output


@pytest.fixture(scope="session")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete evaluation with AutoAttack."""
    output = tmp_path_factory.mktemp("attacked") / "evaluation"
    run(output, ATTACKED)
    return output
