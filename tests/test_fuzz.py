"""Random and damaged files of every kind: each is read or refused in one line, quickly and within bounded memory."""

import gzip
import io
import json
import os
import resource
import sys
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import BaseModel
from spoiled import EVALUATED, idx, png, table, weight_bytes
from torch import nn

from robust_student.cli import arguments
from robust_student.cli.main import COMMANDS, main
from robust_student.core.errors import UserError
from robust_student.core.settings import read_yaml
from robust_student.data.images import Format, decode, look
from robust_student.data.readers.load import load_data
from robust_student.models.run_directory import load
from robust_student.models.weights import load_weights
from robust_student.report.write import write_report

Edit = tuple[float, int, bytes]
"""Where, as a share of the file; how many bytes go; what comes in their place."""
SEVERAL = settings(max_examples=60, suppress_health_check=list(HealthCheck))
FEW = settings(max_examples=20, suppress_health_check=list(HealthCheck))
EXTREMES = [b"\x00" * 4, b"\xff" * 4, b"\x7f\xff\xff\xff", b"\xff" * 8, b"-1", b"1e999", b"[" * 1100, b"\n"]
EDITS = st.lists(
    st.tuples(st.floats(0, 1), st.integers(0, 8), st.binary(max_size=8) | st.sampled_from(EXTREMES)), max_size=6
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["l2", "all"])
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)


@contextmanager
def bounded() -> Iterator[None]:
    """Two gigabytes of memory more than now, and no more: a giant allocation fails the test instead of the machine."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    if sys.platform == "linux":
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 2_000_000_000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def read_or_refused(action: Callable[[], object]) -> None:
    """Whatever else than a one-line UserError escapes is a failure."""
    try:
        with bounded():
            action()
    except UserError as error:
        assert len(str(error).splitlines()) == 1


def damaged(content: bytes, edits: list[Edit]) -> bytes:
    """A file's content with some bytes replaced, inserted or removed, or its end cut off."""
    for share, gone, come in edits:
        at = int(share * len(content))
        content = content[:at] + come + content[at + gone :] if gone or come else content[:at]
    return content


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A working directory with a model and an evaluation of it."""
    root, before = tmp_path_factory.mktemp("fuzz"), Path.cwd()
    os.chdir(root)
    main(["train", "--data", "digits", "--model", "mlp:8", "--output", "teacher", "--epochs", "1", "--device", "cpu"])
    main(EVALUATED)
    yield root
    os.chdir(before)


# Configuration --------------------------------------------------------------------------------------------------------


def groups(kind: type[BaseModel]) -> st.SearchStrategy[dict[Any, Any]]:
    """Mappings whose names are mostly those of the settings, with values of any kind; groups mostly in their places."""
    entries = {}
    for name, field in kind.model_fields.items():
        group = field.annotation
        nested = groups(group) if isinstance(group, type) and issubclass(group, BaseModel) else st.nothing()
        entries[name] = nested | VALUES
    known = st.fixed_dictionaries({}, optional=entries)
    strange = st.dictionaries(st.text(max_size=8) | st.integers() | st.none(), VALUES, max_size=1)
    return st.tuples(known, strange).map(lambda pair: {**pair[0], **pair[1]})


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


# Data -----------------------------------------------------------------------------------------------------------------

LABELS = "mnist/train-labels-idx1-ubyte"
IMAGES = "mnist/train-images-idx3-ubyte"


@pytest.mark.parametrize("path", [LABELS, IMAGES])
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
def test_a_damaged_idx_file_is_read_or_refused(
    path: str, packed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for part, n in (("train", 12), ("t10k", 4)):
        idx(f"mnist/{part}-images-idx3-ubyte", np.arange(n * 9).reshape(n, 3, 3))()
        idx(f"mnist/{part}-labels-idx1-ubyte", np.arange(n) % 2)()
    content = Path(path).read_bytes()

    @SEVERAL
    @given(EDITS, st.booleans())
    def check(edits: list[Edit], within: bool) -> None:
        if packed:
            bad = gzip.compress(damaged(content, edits)) if within else damaged(gzip.compress(content), edits)
        else:
            bad = damaged(content, edits)
        Path(path).write_bytes(bad)
        read_or_refused(lambda: load_data("mnist:mnist"))

    check()


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=5), st.integers(0, 255), st.binary(max_size=40))
@SEVERAL
def test_an_idx_header_is_never_believed(tmp_path_factory: Any, shape: list[int], kind: int, content: bytes) -> None:
    folder = tmp_path_factory.mktemp("idx")
    for part in ("train", "t10k"):
        idx(f"{folder}/{part}-images-idx3-ubyte", list(content), kind=kind, shape=tuple(shape))()
        idx(f"{folder}/{part}-labels-idx1-ubyte", list(content))()
    read_or_refused(lambda: load_data(f"mnist:{folder}"))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed], ids=["stored", "compressed"])
def test_a_damaged_npz_file_is_read_or_refused(save: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    x, y = np.linspace(0, 1, 40, dtype=np.float32).reshape(10, 4), np.arange(10) % 2
    save(path, x_train=x, y_train=y, classes=np.array(["a", "b"]))
    content = path.read_bytes()

    @SEVERAL
    @given(EDITS)
    def check(edits: list[Edit]) -> None:
        path.write_bytes(damaged(content, edits))
        read_or_refused(lambda: load_data(f"npz:{path}"))

    check()


def test_a_damaged_parquet_file_is_read_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pyarrow")
    monkeypatch.chdir(tmp_path)
    for part in ("train", "test"):
        table(f"p/{part}.parquet", [png(k) for k in range(4)], [k % 2 for k in range(4)], classes=["a", "b"])()
    path = Path("p/train.parquet")
    content = path.read_bytes()

    @SEVERAL
    @given(EDITS)
    def check(edits: list[Edit]) -> None:
        path.write_bytes(damaged(content, edits))
        read_or_refused(lambda: load_data("parquet:p"))

    check()


def test_a_damaged_csv_file_is_read_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    content = ("a,b,label\n" + "".join(f"{k},{k / 7:.3f},{'xyz'[k % 3]}\n" for k in range(12))).encode()

    @SEVERAL
    @given(EDITS)
    def check(edits: list[Edit]) -> None:
        path.write_bytes(damaged(content, edits))
        read_or_refused(lambda: load_data(f"csv:{path}"))

    check()


def test_a_damaged_shard_is_read_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("webdataset")
    monkeypatch.chdir(tmp_path)
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for k in range(4):
            for name, content in ((f"{k}.png", png(k)), (f"{k}.cls", str(k % 2).encode())):
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))

    @SEVERAL
    @given(EDITS)
    def check(edits: list[Edit]) -> None:
        Path("a.tar").write_bytes(damaged(stream.getvalue(), edits))
        read_or_refused(lambda: load_data("wds:a.tar,test=a.tar,classes=2,size=6x6"))

    check()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"])
def test_a_damaged_image_is_read_or_refused(kind: str) -> None:
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (9, 7, 3)).astype(np.uint8)).save(stream, kind)

    @SEVERAL
    @given(EDITS)
    def check(edits: list[Edit]) -> None:
        content = damaged(stream.getvalue(), edits)
        read_or_refused(lambda: look(content, "image x"))
        read_or_refused(lambda: decode(content, form=Format(3, 8, 8), place="image x"))

    check()


# Models and evidence --------------------------------------------------------------------------------------------------


def test_damaged_weights_of_a_run_are_read_or_refused(place: Path) -> None:
    """Under the checksum that belongs to them, so that only their content can give them away."""
    content = Path("teacher/model.safetensors").read_bytes()

    @SEVERAL
    @given(EDITS, st.booleans())
    def check(edits: list[Edit], header: bool) -> None:
        edits = [(share * (0.2 if header else 1), gone, come) for share, gone, come in edits]
        weight_bytes(damaged(content, edits))()
        read_or_refused(lambda: load("teacher"))

    try:
        check()
    finally:
        weight_bytes(content)()


@pytest.mark.parametrize("name", ["model.json", "metrics.jsonl"])
def test_a_damaged_file_of_a_run_is_read_or_refused(name: str, place: Path) -> None:
    path = Path("teacher") / name
    content = path.read_bytes()

    @SEVERAL
    @given(EDITS)
    def check(edits: list[Edit]) -> None:
        path.write_bytes(damaged(content, edits))
        read_or_refused(lambda: load("teacher"))

    try:
        check()
    finally:
        path.write_bytes(content)


@pytest.mark.parametrize("name", ["rows.jsonl", "summary.json", "evaluation.json", "gallery.json"])
def test_damaged_evidence_is_reported_or_refused(name: str, place: Path) -> None:
    path = Path("evaluation") / name
    content = path.read_bytes()

    @SEVERAL
    @given(EDITS)
    def check(edits: list[Edit]) -> None:
        path.write_bytes(damaged(content, edits))
        read_or_refused(lambda: write_report(Path("evaluation"), Path("page.json"), style="json"))

    try:
        check()
    finally:
        path.write_bytes(content)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_a_damaged_state_dict_is_read_or_refused(legacy: bool, tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    network = nn.Linear(4, 2)
    torch.save(network.state_dict(), path, _use_new_zipfile_serialization=not legacy)
    content = path.read_bytes()

    @SEVERAL
    @given(EDITS)
    def check(edits: list[Edit]) -> None:
        path.write_bytes(damaged(content, edits))
        read_or_refused(lambda: load_weights(network, path))

    check()


def replaced(value: Any) -> st.SearchStrategy[Any]:
    """A JSON value in which one part, at any depth, is replaced by something else."""
    here = VALUES.map(lambda new: new)
    if isinstance(value, dict) and value:
        deeper = st.sampled_from(sorted(value)).flatmap(
            lambda name: replaced(value[name]).map(lambda new: value | {name: new})
        )
        gone = st.sampled_from(sorted(value)).map(lambda name: {k: v for k, v in value.items() if k != name})
        return deeper | deeper | gone | here
    if isinstance(value, list) and value:
        within = st.integers(0, len(value) - 1).flatmap(
            lambda k: replaced(value[k]).map(lambda new: [*value[:k], new, *value[k + 1 :]])
        )
        return within | within | here
    return here


@pytest.mark.parametrize("name", ["summary.json", "evaluation.json", "gallery.json"])
def test_evidence_with_a_strange_value_is_reported_or_refused(name: str, place: Path) -> None:
    path = Path("evaluation") / name
    content = path.read_text()

    @SEVERAL
    @given(replaced(json.loads(content)))
    def check(value: Any) -> None:
        path.write_text(json.dumps(value))
        read_or_refused(lambda: write_report(Path("evaluation"), Path("page.md"), style="markdown"))

    try:
        check()
    finally:
        path.write_text(content)


def test_rows_with_a_strange_value_are_reported_or_refused(place: Path) -> None:
    path = Path("evaluation/rows.jsonl")
    content = path.read_text()
    lines = content.splitlines()

    @SEVERAL
    @given(st.integers(0, len(lines) - 1).flatmap(lambda k: st.tuples(st.just(k), replaced(json.loads(lines[k])))))
    def check(change: tuple[int, Any]) -> None:
        path.write_text("\n".join([*lines[: change[0]], json.dumps(change[1]), *lines[change[0] + 1 :]]) + "\n")
        read_or_refused(lambda: write_report(Path("evaluation"), Path("page.json"), style="json"))

    try:
        check()
    finally:
        path.write_text(content)


def test_a_card_with_a_strange_value_is_read_or_refused(place: Path) -> None:
    path = Path("teacher/model.json")
    content = path.read_text()

    @SEVERAL
    @given(replaced(json.loads(content)))
    def check(value: Any) -> None:
        path.write_text(json.dumps(value))
        read_or_refused(lambda: load("teacher"))

    try:
        check()
    finally:
        path.write_text(content)
