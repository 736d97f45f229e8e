"""Makers of broken and hostile inputs: each writes into the working directory and returns the path that it wrote."""

import contextlib
import gzip
import hashlib
import io
import json
import os
import pickle
import shutil
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO
from unittest import mock

import numpy as np
import safetensors.torch
import torch
from PIL import Image
from torch import Tensor

from robust_student.cli.main import main
from robust_student.core.tensors import Shape
from robust_student.training.checkpoints import NO_FILES, Checkpoints

EVALUATED = ["evaluate", "teacher", "--data", "digits", "--output", "evaluation", "--device", "cpu", "--examples", "8"]
EVALUATED += ["--attack-examples", "4", "--pgd-steps", "1", "--autoattack", "none"]
"""The command that made the evaluation."""
HALTED = ["train", "--data", "npz:good.npz", "--model", "linear", "--output", "halted", "--epochs", "1"]
HALTED += ["--checkpoint-minutes", "0"]
"""The command of a training that was stopped after its second step."""
MARKER = "executed.txt"
"""What the payloads below write when they are run."""


class Payload:
    """Writes the marker when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (str(Path(MARKER).resolve()), "w"))


def world() -> None:
    """Fill the working directory with small inputs that are in order: data of every kind, models, evidence."""
    rng = np.random.default_rng(0)
    x, y = rng.random((40, 4), np.float32), np.arange(40) % 2
    np.savez("good.npz", x_train=x, y_train=y, x_test=x[:10] / 2, y_test=y[:10])
    for name, base in (("cat", 60), ("dog", 190)):
        (Path("photos") / name).mkdir(parents=True)
        for number in range(6):
            pixels = (base + rng.integers(-40, 40, (8, 8, 3))).astype(np.uint8)
            Image.fromarray(pixels).save(f"photos/{name}/{number}.png")
    Path("mnist").mkdir()
    for part, n in (("train", 40), ("t10k", 10)):
        idx(f"mnist/{part}-images-idx3-ubyte", rng.integers(0, 255, (n, 6, 6)))()
        idx(f"mnist/{part}-labels-idx1-ubyte", np.arange(n) % 10)()
    table("parquet/train-0.parquet", [png(k) for k in range(8)], [k % 2 for k in range(8)])()
    table("parquet/test-0.parquet", [png(k) for k in range(8, 12)], [k % 2 for k in range(4)])()
    quick = ["--epochs", "1", "--device", "cpu"]
    main(["train", "--data", "digits", "--model", "mlp:8", "--output", "teacher", *quick])
    main(["train", "--data", "npz:good.npz", "--model", "linear", "--output", "vectors", *quick])
    main(EVALUATED)
    halt()
    text("certificates/certification.json", "{}")()
    shutil.copytree("evaluation", "unfinished")
    Path("unfinished/summary.json").unlink()


def halt() -> None:
    """Leave an unfinished training with two checkpoints in `halted`."""
    whole = Checkpoints.save

    def save(self: Checkpoints, step: int, state: dict[str, Any], files: Mapping[int, BinaryIO] = NO_FILES) -> None:
        whole(self, step, state, files)
        if step == 2:
            raise KeyboardInterrupt

    with mock.patch.object(Checkpoints, "save", save), contextlib.suppress(SystemExit):
        main(HALTED)


# Plain files ----------------------------------------------------------------------------------------------------------


def text(path: str, content: str | bytes) -> Callable[[], Path]:
    """A file with this content."""

    def make() -> Path:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_bytes(content if isinstance(content, bytes) else content.encode())
        return Path(path)

    return make


def folder(path: str) -> Callable[[], Path]:
    """An empty folder, in place of whatever was there."""

    def make() -> Path:
        remove(path)()
        Path(path).mkdir(parents=True)
        return Path(path)

    return make


def link(path: str, target: str) -> Callable[[], Path]:
    """A symbolic link, in place of whatever was there."""

    def make() -> Path:
        remove(path)()
        Path(path).symlink_to(target)
        return Path(path)

    return make


def fifo(path: str) -> Callable[[], Path]:
    """A named pipe that nobody writes to: whoever opens it waits forever."""

    def make() -> Path:
        remove(path)()
        os.mkfifo(path)
        return Path(path)

    return make


def remove(path: str) -> Callable[[], None]:
    """Nothing where something was."""

    def make() -> None:
        if Path(path).is_dir() and not Path(path).is_symlink():
            shutil.rmtree(path)
        else:
            Path(path).unlink(missing_ok=True)

    return make


def rename(path: str, name: bytes) -> Callable[[], None]:
    """A file or folder under another name, of any bytes."""

    def make() -> None:
        Path(path).rename(os.fsdecode(name))

    return make


def cut(path: str, keep: float = 0.5) -> Callable[[], Path]:
    """The beginning of the file that was there."""

    def make() -> Path:
        content = Path(path).read_bytes()
        Path(path).write_bytes(content[: int(keep * len(content))])
        return Path(path)

    return make


def all_of(*makers: Callable[[], object]) -> Callable[[], None]:
    """Several makers, one after the other."""

    def make() -> None:
        for maker in makers:
            maker()

    return make


# Data -----------------------------------------------------------------------------------------------------------------


def arrays(**changes: Any) -> Callable[[], Path]:
    """`bad.npz`: the good one with some arrays replaced (None: left out)."""

    def make() -> Path:
        with np.load("good.npz") as file:
            content = dict(file) | changes
        np.savez("bad.npz", **{name: value for name, value in content.items() if value is not None})
        return Path("bad.npz")

    return make


def npz_claiming(shape: Shape, *, lie: bool = False) -> Callable[[], Path]:
    """`bad.npz`: its x_train claims a shape that the file has no bytes for; with `lie` the archive claims it too."""

    def make() -> Path:
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
        with zipfile.ZipFile("bad.npz", "w") as file:
            file.writestr("x_train.npy", header.getvalue())
            if lie:
                file.getinfo("x_train.npy").file_size = len(header.getvalue()) + int(np.prod(shape))
        return Path("bad.npz")

    return make


def idx(path: str, values: Any, *, magic: int = 0, kind: int = 8, shape: Shape | None = None) -> Any:
    """An IDX file of unsigned bytes; `shape` is what its header claims."""
    array = np.asarray(values).astype(np.uint8)
    claimed = array.shape if shape is None else shape
    header = struct.pack(f">HBB{len(claimed)}I", magic, kind, len(claimed), *claimed)
    return text(path, header + array.tobytes())


def gzip_claiming(path: str, shape: Shape, actual: int) -> Callable[[], Path]:
    """A gzipped IDX file with `actual` zero bytes behind a header that claims `shape`."""
    header = struct.pack(f">HBB{len(shape)}I", 0, 8, len(shape), *shape)
    return text(path, gzip.compress(header + bytes(actual), 9))


def png(seed: int = 0, size: tuple[int, int] = (6, 6)) -> bytes:
    """An encoded image of random pixels."""
    stream = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 255, (*size, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def nan_tiff() -> bytes:
    """A TIFF file of floats that are not numbers."""
    stream = io.BytesIO()
    Image.fromarray(np.full((6, 6), np.nan, np.float32)).save(stream, "TIFF")
    return stream.getvalue()


def png_claiming(width: int, height: int) -> bytes:
    """A PNG file whose header claims a size far beyond its few bytes (a decompression bomb's beginning)."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    pixels = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def table(
    path: str, images: list[Any], labels: list[Any], names: tuple[str, str] = ("image", "label"), classes: Any = None
) -> Callable[[], Path]:
    """A Parquet file in the layout of Hugging Face datasets."""

    def make() -> Path:
        import pyarrow
        from pyarrow import parquet

        Path(path).parent.mkdir(parents=True, exist_ok=True)
        content = pyarrow.table({names[0]: images, names[1]: labels})
        if classes is not None:
            info = json.dumps({"info": {"features": {names[1]: {"names": classes}}}})
            content = content.replace_schema_metadata({"huggingface": info})
        parquet.write_table(content, path)
        return Path(path)

    return make


# Models ---------------------------------------------------------------------------------------------------------------


def card(run: str = "teacher", **changes: Any) -> Callable[[], Path]:
    """A run's model.json with some values replaced."""

    def make() -> Path:
        path = Path(run) / "model.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
        return path

    return make


def weights(change: Callable[[dict[str, Tensor]], Mapping[str, Tensor]], run: str = "teacher") -> Callable[[], Path]:
    """A run's weights changed, with the checksum that belongs to them: only their content can give them away."""

    def make() -> Path:
        tensors = safetensors.torch.load_file(Path(run) / "model.safetensors")
        return weight_bytes(safetensors.torch.save(dict(change(tensors))), run)()

    return make


def weight_bytes(content: bytes, run: str = "teacher") -> Callable[[], Path]:
    """Any bytes as a run's weights, with the checksum that belongs to them."""

    def make() -> Path:
        path = Path(run) / "model.safetensors"
        path.write_bytes(content)
        card(run, sha256=hashlib.sha256(content).hexdigest())()
        return path

    return make


def checkpoints(make: Callable[[], bytes]) -> Callable[[], None]:
    """Both checkpoints of the halted training with this content, under the checksum that belongs to it."""

    def write() -> None:
        content = make()
        for path in Path("halted/checkpoints").iterdir():
            digest = hashlib.sha256(content).hexdigest()[:16]
            path.write_bytes(content)
            path.rename(path.with_name(f"{path.name[:14]}-{digest}.pt"))

    return write


def checkpoint_files(make: Callable[[str], Callable[[], object]]) -> Callable[[], None]:
    """Both checkpoints of the halted training replaced by what a maker makes of their paths."""

    def write() -> None:
        for path in sorted(Path("halted/checkpoints").iterdir()):
            make(str(path))()

    return write


def torch_bytes(content: object) -> Callable[[], bytes]:
    """What torch.save writes."""

    def make() -> bytes:
        stream = io.BytesIO()
        torch.save(content, stream)
        return stream.getvalue()

    return make


def compressed(content: bytes) -> bytes:
    """A zip archive with every entry compressed."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    return stream.getvalue()


def safetensors_claiming(header: Mapping[str, Any], content: bytes = b"", length: int | None = None) -> bytes:
    """A safetensors file with this header; `length` is what the file says the header's length is."""
    encoded = json.dumps(header).encode()
    return struct.pack("<Q", len(encoded) if length is None else length) + encoded + content


def hostile_pickle(path: str) -> Callable[[], Path]:
    """A plain pickle that runs code when it is read."""

    def make() -> Path:
        Path(path).write_bytes(pickle.dumps({"0.weight": Payload()}))
        return Path(path)

    return make


def hostile_checkpoint(path: str) -> Callable[[], Path]:
    """A file of torch.save whose pickle runs code when it is read."""

    def make() -> Path:
        torch.save({"state_dict": {"1.weight": torch.zeros(2)}, "optimizer": Payload()}, path)
        return Path(path)

    return make


def saved(content: object) -> Callable[[], Path]:
    """`w.pt`: anything, as torch.save writes it."""

    def make() -> Path:
        torch.save(content, "w.pt")
        return Path("w.pt")

    return make


def state(weight: Tensor) -> dict[str, Tensor]:
    """The state_dict of a linear layer behind a flattening one, with this weight."""
    return {"1.weight": weight, "1.bias": torch.zeros(10)}


def hub_folder(config: str) -> Callable[[], None]:
    """`hub`: a folder in the layout of the Hugging Face hub with this config.json and no tensors."""
    empty = safetensors.torch.save({"x": torch.zeros(1)})
    return all_of(text("hub/config.json", config), text("hub/model.safetensors", empty))


def factory(body: str) -> Callable[[], Path]:
    """`own.py` with a function `make` of this body."""
    return text("own.py", f"import sys\nimport torch\nfrom torch import nn\n\n\ndef make():\n    {body}\n")
