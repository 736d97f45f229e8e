"""Damaged data of every kind are read or refused in one line, quickly and within bounded memory."""

import gzip
import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fuzzing import EDITS, SEVERAL, Edit, damaged, read_or_refused
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from spoiled import idx, png, table

from robust_student.data.images import ImageFormat, decode, read_header
from robust_student.data.readers.load import load_data

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
        read_or_refused(lambda: read_header(content, "image x"))
        read_or_refused(lambda: decode(content, form=ImageFormat(3, 8, 8), place="image x"))

    check()
