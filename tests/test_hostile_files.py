"""Files made to do harm: nothing in them is run, followed outside, believed or shown raw."""

import json
import lzma
import pickle
import shutil
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from reference import message_of
from spoiled import (
    EVALUATED,
    MARKER,
    Payload,
    card,
    compressed,
    factory,
    safetensors_claiming,
    text,
    torch_bytes,
    weight_bytes,
)
from torch import Tensor, nn

from robust_student.cli.main import main
from robust_student.data.readers.load import load_data
from robust_student.models.registry import build
from robust_student.models.run_directory import load
from robust_student.models.weights import load_weights
from robust_student.report.evidence import reading
from robust_student.report.write import write_report


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of a linear network on four numbers, and its data."""
    root, rng = tmp_path_factory.mktemp("whole"), np.random.default_rng(0)
    np.savez(root / "good.npz", x_train=rng.random((40, 4), np.float32), y_train=np.arange(40) % 2)
    words = ["--data", f"npz:{root / 'good.npz'}", "--model", "linear", "--epochs", "1", "--device", "cpu"]
    main(["train", *words, "--output", str(root / "run")])
    return root


@pytest.fixture
def here(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it as the working directory."""
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


# Code -----------------------------------------------------------------------------------------------------------------


def legacy(content: object) -> bytes:
    """What torch.save wrote before its files were zip archives."""
    torch.save(content, "legacy.pt", _use_new_zipfile_serialization=False)
    return Path("legacy.pt").read_bytes()


PICKLED: dict[str, Callable[[], bytes]] = {
    **{f"pickle {protocol}": partial(pickle.dumps, {"a": Payload()}, protocol) for protocol in range(6)},
    "torch.save": lambda: torch_bytes({"a": Payload()})(),
    "torch.save, wrapped": lambda: torch_bytes({"state_dict": {"1.weight": torch.zeros(2, 4)}, "x": Payload()})(),
    "legacy torch.save": lambda: legacy({"a": Payload()}),
}


@pytest.mark.parametrize("kind", list(PICKLED))
@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
def test_no_file_of_weights_runs_code(kind: str, name: str, here: Path) -> None:
    Path(name).write_bytes(PICKLED[kind]())
    assert name in message_of(lambda: load_weights(nn.Linear(4, 2), Path(name)))
    assert not Path(MARKER).exists()


@pytest.mark.parametrize("kind", list(PICKLED))
def test_no_file_of_a_run_runs_code(kind: str, here: Path) -> None:
    content = PICKLED[kind]()
    weight_bytes(content, "run")()
    assert "not a valid safetensors file" in message_of(lambda: load("run"))
    for name in ("model.json", "metrics.jsonl"):
        (here / "run" / name).write_bytes(content)
        message_of(lambda: load("run"))
    assert not Path(MARKER).exists()


def test_no_array_runs_code(here: Path) -> None:
    content = np.empty(2, dtype=object)
    content[:] = Payload()
    np.savez("bad.npz", x_train=content, y_train=np.arange(2))
    assert "never unpickled" in message_of(lambda: load_data("npz:bad.npz"))
    np.save("bad.npy", content)
    message_of(lambda: load_data("npz:bad.npy"))
    assert not Path(MARKER).exists()


def test_no_setting_runs_code(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for tag in ("object/apply:builtins.open [executed.txt, w]", "name:os.system", "module:antigravity"):
        text("c.yaml", f"model: !!python/{tag}\n")()
        with pytest.raises(SystemExit):
            main(["train", "--config", "c.yaml", "--data", "digits", "--output", "out"])
        assert "not valid YAML" in capsys.readouterr().err
    assert not Path(MARKER).exists()


def test_the_payload_would_have_run(here: Path) -> None:
    """Else the tests above would pass for nothing."""
    pickle.loads(pickle.dumps(Payload())).close()
    assert Path(MARKER).exists()


# Sizes ----------------------------------------------------------------------------------------------------------------


ENTRY = {"dtype": "F32", "shape": [2, 4], "data_offsets": [0, 32]}
HEADERS: dict[str, bytes] = {
    "empty": b"",
    "header of 2^63 bytes": safetensors_claiming({}, length=2**63),
    "header of 2^64 - 1 bytes": safetensors_claiming({}, length=2**64 - 1),
    "header of a gigabyte": safetensors_claiming({}, length=2**30),
    "header that is not JSON": struct.pack("<Q", 4) + b"{{{{",
    "header that is too deep": struct.pack("<Q", 10**5) + b"[" * 10**5,
    "tensor beyond the file": safetensors_claiming({"mean": ENTRY | {"shape": [2**40], "data_offsets": [0, 2**42]}}),
    "shape beyond any number": safetensors_claiming({"mean": ENTRY | {"shape": [2**62, 2**62]}}, bytes(32)),
    "negative offsets": safetensors_claiming({"mean": ENTRY | {"data_offsets": [-32, 0]}}, bytes(32)),
    "offsets backwards": safetensors_claiming({"mean": ENTRY | {"data_offsets": [32, 0]}}, bytes(32)),
    "overlapping tensors": safetensors_claiming({"mean": ENTRY, "std": ENTRY}, bytes(32)),
    "unknown type": safetensors_claiming({"mean": ENTRY | {"dtype": "PICKLE"}}, bytes(32)),
    "other type than size": safetensors_claiming({"mean": ENTRY | {"dtype": "F64"}}, bytes(32)),
}


@pytest.mark.parametrize("kind", list(HEADERS))
def test_a_header_of_weights_is_not_believed(kind: str, here: Path) -> None:
    weight_bytes(HEADERS[kind], "run")()
    assert "run/model.safetensors: not a valid safetensors file" in message_of(lambda: load("run"))
    Path("w.safetensors").write_bytes(HEADERS[kind])
    assert "not a valid safetensors file" in message_of(lambda: load_weights(nn.Linear(4, 2), Path("w.safetensors")))


def test_compressed_weights_are_not_unpacked(here: Path) -> None:
    """A megabyte of them can hold a gigabyte of zeros."""
    Path("w.pt").write_bytes(compressed(torch_bytes({"weight": torch.zeros(2, 4), "bias": torch.zeros(2)})()))
    assert "compressed" in message_of(lambda: load_weights(nn.Linear(4, 2), Path("w.pt")))


GIANT = ["mlp:10000000000", "cnn:100000", "resnet8:100000", f"mlp:{2**70}", "mlp:40000,40000"]


@pytest.mark.parametrize("spec", GIANT)
def test_a_giant_network_is_refused_before_it_is_built(spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(weights: Tensor, *_: float, **__: Any) -> Tensor:
        assert weights.is_meta  # without any memory
        return weights

    monkeypatch.setattr(Tensor, "uniform_", fill)  # how every layer makes its weights
    assert "choose smaller widths" in message_of(lambda: build(spec, (1, 8, 8), 10))


def test_packed_rows_are_unpacked_up_to_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rows.jsonl.xz").write_bytes(lzma.compress(b'{"a": 1}\n' * 100))
    assert len(reading.read_rows(tmp_path)) == 100
    monkeypatch.setattr(reading, "_LARGEST_ROWS", 899)
    assert "unpacks to more than 899 bytes" in message_of(lambda: reading.read_rows(tmp_path))
    monkeypatch.undo()
    (tmp_path / "rows.jsonl.xz").write_bytes(lzma.compress(b'{"a": 1}\n' * 100)[:-20])
    assert "damaged" in message_of(lambda: reading.read_rows(tmp_path))


# Places ---------------------------------------------------------------------------------------------------------------


def test_names_of_models_and_classes_lead_nowhere(here: Path) -> None:
    """They are shown, never used as paths: nothing appears outside the output."""
    np.savez(
        "good.npz",
        **{name: np.load("good.npz")[name] for name in ("x_train", "y_train")},
        classes=np.array(["../../up", "/absolute"]),
    )
    outside = here.parent
    data = ["--data", "npz:good.npz", "--device", "cpu"]
    main(["train", *data, "--model", "linear", "--epochs", "1", "--output", "named"])
    before = {path for path in outside.rglob("*") if "out" not in path.relative_to(here.parent).parts[1:2]}
    few = ["--examples", "8", "--attack-examples", "4", "--pgd-steps", "1", "--autoattack", "none"]
    main(["evaluate", "..escaped=named", *data, *few, "--output", "out"])
    main(["report", "out", "--format", "markdown"])
    after = {path for path in outside.rglob("*") if "out" not in path.relative_to(here.parent).parts[1:2]}
    assert after == before
    assert "..escaped" in (here / "out" / "report.md").read_text()


@pytest.mark.parametrize("network", ["../../up", "/etc/passwd", "..", "linear:../../up", "file:///etc/passwd", "\x00"])
def test_a_network_that_is_a_path_is_refused(network: str, here: Path) -> None:
    card("run", network=network)()
    assert message_of(lambda: load("run"))


def test_links_in_a_folder_of_images_are_not_followed_in_circles(here: Path) -> None:
    (here / "photos" / "cat").mkdir(parents=True)
    (here / "photos" / "cat" / "again").symlink_to(here / "photos")
    (here / "photos" / "dog").symlink_to(here / "photos" / "dog")
    assert "cat: holds no images" in message_of(lambda: load_data("folder:photos"))


def test_a_report_over_a_link_replaces_the_link_and_not_what_it_leads_to(here: Path) -> None:
    (here / "precious.md").write_text("mine")
    (here / "page.md").symlink_to(here / "precious.md")
    main(["train", "--data", "digits", "--model", "linear", "--epochs", "1", "--output", "teacher", "--device", "cpu"])
    main(EVALUATED)
    main(["report", "evaluation", "--output", "page.md", "--overwrite"])
    assert (here / "precious.md").read_text() == "mine"
    assert "Clean" in (here / "page.md").read_text()


# What is shown --------------------------------------------------------------------------------------------------------


ESCAPE = "\x1b[2J\x1b]0;owned\x07"


def test_a_complaint_cannot_steer_the_terminal(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    card("run", network=f"line{ESCAPE}\nr")()
    with pytest.raises(SystemExit):
        main(["evaluate", "run", "--data", "npz:good.npz", "--output", "out"])
    complaint = capsys.readouterr().err
    assert complaint.count("\n") == 1 and complaint.rstrip("\n").isprintable()
    assert r"line\x1b[2J" in complaint


@pytest.mark.parametrize("name", [f"cat{ESCAPE}", "two\nlines", "half \ud83d", "end\u2028of line"])
def test_class_names_that_cannot_be_shown_are_refused(name: str, here: Path) -> None:
    card("run", classes=["dog", name])()
    assert "'classes" in (complaint := message_of(lambda: load("run"))) or "cannot be shown" in complaint


def test_class_names_of_any_script_are_shown(here: Path) -> None:
    names = ("кошка", "犬 いぬ")
    card("run", classes=names)()
    assert load("run").card.classes == names


def test_a_page_shows_hostile_names_as_text(here: Path) -> None:
    main(["train", "--data", "digits", "--model", "linear", "--epochs", "1", "--output", "teacher", "--device", "cpu"])
    main(EVALUATED)
    script = "</td><script>alert(1)</script>"
    for path in (here / "evaluation").glob("*.json*"):
        path.write_text(path.read_text().replace('"teacher"', json.dumps(script)))
    gallery = here / "evaluation" / "gallery.json"
    gallery.write_text(json.dumps(_with_pictures(json.loads(gallery.read_text()), '"><script>alert(2)</script>')))
    write_report(here / "evaluation", here / "page.html")
    page = (here / "page.html").read_text()
    assert "<script>alert" not in page and "&lt;script&gt;alert(1)" in page


def _with_pictures(value: Any, picture: str) -> Any:
    """The same gallery with other pictures."""
    if isinstance(value, dict):
        return {name: picture if name == "png" else _with_pictures(part, picture) for name, part in value.items()}
    return [_with_pictures(part, picture) for part in value] if isinstance(value, list) else value


def test_a_factory_that_leaves_the_program_is_a_complaint(here: Path) -> None:
    factory("sys.exit(0)")()
    assert "the factory failed (SystemExit" in message_of(lambda: build("own.py:make", (4,), 2))


def test_whole_weights_still_load(here: Path) -> None:
    """The control of all the refusals above."""
    assert load("run").card.network == "linear"
    content = safetensors.torch.save({"weight": torch.zeros(2, 4), "bias": torch.zeros(2)})
    Path("w.safetensors").write_bytes(content)
    load_weights(nn.Linear(4, 2), Path("w.safetensors"))
