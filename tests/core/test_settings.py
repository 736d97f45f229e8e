"""Files of settings in YAML."""

from pathlib import Path

import pytest

from robust_student.core.errors import UserError
from robust_student.core.settings import read_yaml


def test_yaml_is_read_as_a_mapping(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("norm: l2\nsecant: {weight: 5, steps: 2}\n", encoding="utf-8")
    assert read_yaml(path) == {"norm": "l2", "secant": {"weight": 5, "steps": 2}}


def test_an_empty_yaml_file_means_no_changes(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("# nothing yet\n", encoding="utf-8")
    assert read_yaml(path) == {}


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "cannot read it"),
        (b"norm: [l2\n  radius: : 3\n", "not valid YAML"),
        (b"norm: \xff\xfe", "not valid YAML"),
        (b"norm: \x00", "not valid YAML"),
        (b"- norm\n- radius\n", "found list"),
        (b"just words\n", "found str"),
        (b"norm: !!python/object:os.system {}\n", "not valid YAML"),
    ],
    ids=["missing", "malformed", "not text", "control character", "list", "words", "unsafe tag"],
)
def test_a_bad_yaml_file_is_a_one_line_error_that_names_it(
    content: bytes | None, complaint: str, tmp_path: Path
) -> None:
    path = tmp_path / "run.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError) as error:
        read_yaml(path)
    message = str(error.value)
    assert str(path) in message and complaint in message and len(message.splitlines()) == 1
