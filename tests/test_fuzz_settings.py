"""Random and damaged settings are understood or refused in one line."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from fuzzing import EDITS, FEW, SEVERAL, VALUES, Edit, damaged, read_or_refused
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from robust_student.cli import arguments
from robust_student.cli.main import COMMANDS
from robust_student.core.settings import read_yaml


def groups(kind: type[BaseModel]) -> st.SearchStrategy[dict[Any, Any]]:
    """Mappings whose names are mostly those of the settings, with values of any kind; groups mostly in their places."""
    entries = {}
    for name, field in kind.model_fields.items():
        group = field.annotation
        nested = groups(group) if isinstance(group, type) and issubclass(group, BaseModel) else st.nothing()
        entries[name] = nested | VALUES
    fields = st.fixed_dictionaries({}, optional=entries)
    strange = st.dictionaries(st.text(max_size=8) | st.integers() | st.none(), VALUES, max_size=1)
    return st.tuples(fields, strange).map(lambda pair: {**pair[0], **pair[1]})


CONFIGURED = [name for name, kind in COMMANDS.items() if "config" in kind.model_fields]


@pytest.mark.parametrize("command", CONFIGURED)
def test_any_mapping_in_yaml_is_understood_or_refused(command: str, tmp_path: Path) -> None:
    kind, path = COMMANDS[command], tmp_path / "c.yaml"

    @SEVERAL
    @given(groups(kind))
    def check(values: dict[Any, Any]) -> None:
        path.write_text(yaml.safe_dump(values), encoding="utf-8")
        read_or_refused(lambda: arguments.from_file(kind, str(path)))

    check()


def test_a_mapping_that_is_understood_passes_the_whole_command_line(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"

    @FEW
    @given(groups(COMMANDS["distill"]))
    def check(values: dict[Any, Any]) -> None:
        path.write_text(yaml.safe_dump(values), encoding="utf-8")
        read_or_refused(lambda: arguments.parse(["distill", "--config", str(path)], COMMANDS))

    check()


@pytest.mark.parametrize("content", [st.text(), st.binary()], ids=["text", "bytes"])
def test_any_text_as_yaml_is_understood_or_refused(content: Any, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"

    @SEVERAL
    @given(content)
    def check(written: str | bytes) -> None:
        path.write_bytes(written if isinstance(written, bytes) else written.encode("utf-8", "surrogatepass"))
        read_or_refused(lambda: read_yaml(path))

    check()


def test_the_readme_s_configuration_with_damage_is_understood_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    content = (Path(__file__).parents[1] / "examples" / "mnist.yaml").read_bytes()

    @SEVERAL
    @given(EDITS)
    def check(edits: list[Edit]) -> None:
        path.write_bytes(damaged(content, edits))
        read_or_refused(lambda: arguments.from_file(COMMANDS["distill"], str(path)))

    check()
