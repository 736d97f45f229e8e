"""A library of an extra is imported late, or one line says what needs it and what to install."""

import json
import sys

import pytest
from reference import message_of

from robust_student.core.extras import require


def test_a_library_is_imported() -> None:
    assert require("json", "data", "data 'x'") is json


@pytest.mark.parametrize("module", ["pyarrow", "pyarrow.parquet"])
def test_a_missing_one_is_named_with_its_extra(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    message = message_of(lambda: require(module, "parquet", "data 'x'"))
    assert message.startswith("data 'x': needs pyarrow (") and message.endswith("pip install 'robust-student[parquet]'")
