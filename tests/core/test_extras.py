"""A library of an extra is imported late, or one line says what needs it and what to install."""

import json
import sys

import pytest
from reference import message_of

from robust_student.core import extras
from robust_student.core.extras import fix_for_torchvision, require


def test_a_library_is_imported() -> None:
    assert require("json", "data", "data 'x'") is json


@pytest.mark.parametrize("module", ["pyarrow", "pyarrow.parquet"])
def test_a_missing_one_is_named_with_its_extra(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    message = message_of(lambda: require(module, "parquet", "data 'x'"))
    assert message.startswith("data 'x': needs pyarrow (") and message.endswith("pip install 'robust-student[parquet]'")


@pytest.mark.parametrize(("version", "index"), [("2.9.0+cpu", "/cpu"), ("2.9.1+cu128", "/cu128"), ("2.9.0", None)])
def test_a_torchvision_that_fits_is_looked_for_where_torch_is_from(
    version: str, index: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extras, "version", lambda name: version)
    command = fix_for_torchvision().partition(": ")[2]
    assert command.startswith("pip install --force-reinstall torch torchvision")
    assert command.rpartition("whl")[2] == index if index else "index" not in command
