"""Data in memory: readers for digits, MNIST, image folders and arrays; stratified samples and splits."""

import gzip
import math
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from robust_student.parquet import read_split
from robust_student.settings import nearest
from robust_student.tensors import UNBOUNDED, UNIT_RANGE, InputRange, UserError

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})
TEST_FRACTION = 0.2
"""Share of the examples held out for testing where a source has no test split of its own."""


@dataclass(frozen=True, eq=False)
class Examples:
    """Inputs `(n, *shape)`, stored as uint8 (pixels, 255 meaning 1.0) or float32, and labels `(n,)`."""

    inputs: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, indices: Tensor) -> "Examples":
        """The examples at `indices`, in that order."""
        return Examples(self.inputs[indices], self.labels[indices])

    def to(self, device: torch.device) -> "Examples":
        """The same examples on another device."""
        return Examples(self.inputs.to(device), self.labels.to(device))

    def floats(self, indices: Tensor | slice = slice(None)) -> Tensor:
        """Inputs in natural units as float32: pixels are divided by 255."""
        inputs = self.inputs[indices]
        return inputs.float() / 255 if inputs.dtype == torch.uint8 else inputs


@dataclass(frozen=True, eq=False)
class Data:
    """A training set and a test set with everything a model must know about its inputs."""

    name: str
    train: Examples
    test: Examples
    classes: tuple[str, ...]
    input_range: InputRange
    scale: Tensor | None = None
    """Per-feature unit of a perturbation (the training set's standard deviation) for data without a range."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input."""
        return tuple(self.train.inputs.shape[1:])

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the training inputs: per channel for images, else per feature."""
        inputs = self.train.floats()
        image = inputs.dim() == 4
        dims = (0, 2, 3) if image else (0,)
        std, mean = torch.std_mean(inputs.double(), dim=dims, correction=0, keepdim=True)
        return mean[0].float(), torch.where(std > 1e-6, std, 1.0)[0].float()


def load_data(spec: str, *, shape: Sequence[int] | None = None, image_size: int | None = None) -> Data:
    """Read the data that `spec` names.

    Args:
        spec: `digits` (embedded), `mnist:DIR` (IDX files, gzipped or not), `folder:DIR` (one sub-folder of images per
            class, optionally below `train` and `test`), `npz:FILE` (x_train, y_train, optionally x_test, y_test,
            classes), or `parquet:DIR` (train*.parquet, test*.parquet).
        shape: shape of one input that a model expects; folder images are read that way, other data must have it.
        image_size: side in pixels to which folder images are resized.

    Raises UserError where anything about the data is wrong. Where there is no test split, 20 % of the examples are
    set aside, stratified, the same ones every time.
    """
    name, _, rest = spec.partition(":")
    if name not in READERS:
        raise UserError(f"data: unknown name '{name}'" + nearest(name, list(READERS)))
    if name != "digits" and not rest:
        raise UserError(f"data '{spec}': say where it is, as in '{name}:{'FILE.npz' if name == 'npz' else 'DIR'}'")
    if image_size is not None and name != "folder":
        raise UserError(f"data '{spec}': image_size applies to folder: data only")
    data = _read_folder(Path(rest), shape, image_size) if name == "folder" else READERS[name](Path(rest))
    if shape is not None and tuple(shape) != data.shape:
        raise UserError(f"data '{spec}': inputs have shape {data.shape}, the model expects {tuple(shape)}")
    _check(data, spec)
    return data


def stratified_sample(labels: Tensor, count: int, seed: int) -> Tensor:
    """`count` indices in random order whose class proportions follow `labels` as closely as whole numbers allow.

    Seats are given by largest remainder. Raises UserError when there are fewer examples than asked for.
    """
    if not 0 < count <= len(labels):
        raise UserError(f"sample: asked for {count} of {len(labels)} examples")
    rng = np.random.default_rng(seed)
    classes = labels.cpu().numpy()
    present, sizes = np.unique(classes, return_counts=True)
    exact = sizes * count / len(classes)
    seats = np.floor(exact).astype(int)
    seats[np.argsort(seats - exact, kind="stable")[: count - seats.sum()]] += 1
    chosen = [rng.permutation(np.flatnonzero(classes == k))[:n] for k, n in zip(present, seats, strict=True)]
    return torch.from_numpy(rng.permutation(np.concatenate(chosen)))


def nested_sample(
    labels: Tensor, examples: int | None, inner: Sequence[int | None], seed: int
) -> tuple[Tensor, list[int]]:
    """Positions in the order measured, and how many of them, counted from the front, each slower measurement gets.

    A stratified sample of `examples` (None: all); `inner` sizes (None: all) are stratified in turn, each within the
    part of the sample that the sizes before it leave together, so that a later size never changes an earlier one's
    examples.
    """
    wanted = min(examples or len(labels), len(labels))
    positions = stratified_sample(labels, wanted, seed)
    counts = [min(wanted if count is None else count, wanted) for count in inner]
    borders = {0, wanted}
    for count in counts:
        if count not in borders:
            low, high = max(b for b in borders if b < count), min(b for b in borders if b > count)
            part = positions[low:high]
            chosen = stratified_sample(labels[part], count - low, seed)
            rest = torch.ones(len(part), dtype=torch.bool)
            rest[chosen] = False
            positions[low:high] = torch.cat([part[chosen], part[rest]])
            borders.add(count)
    return positions, counts


def split(examples: Examples, fraction: float, seed: int) -> tuple[Examples, Examples]:
    """Divide into (rest, held out), the latter a stratified `fraction` of the examples; the seed fixes the split."""
    count = max(1, round(fraction * len(examples)))
    if count >= len(examples):
        raise UserError(f"split: {len(examples)} examples are too few to hold out a fraction of {fraction}")
    held_out = stratified_sample(examples.labels, count, seed)
    kept = torch.ones(len(examples), dtype=torch.bool)
    kept[held_out] = False
    return examples.subset(kept.nonzero()[:, 0]), examples.subset(held_out.sort().values)


def _read_digits(_: Path) -> Data:
    """The 1,797 8x8 digits embedded in scikit-learn; a fixed stratified fifth and a bit (400) is the test set."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    inputs = torch.from_numpy(images / 16).float().view(-1, 1, 8, 8)
    train, test = split(Examples(inputs, torch.from_numpy(labels).long()), 400 / len(labels), seed=0)
    return Data("digits", train, test, tuple("0123456789"), UNIT_RANGE)


def _read_mnist(folder: Path) -> Data:
    """The four IDX files of MNIST or of a set in the same format (Fashion-MNIST, KMNIST)."""
    _require_folder("mnist", folder)
    arrays = {}
    for part in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        names = [f"{part}-ubyte", f"{part}-ubyte.gz", f"{part.replace('-idx', '.idx')}-ubyte"]
        found = [folder / name for name in names if (folder / name).exists()]
        if not found:
            raise UserError(f"data 'mnist:{folder}': no file {part}-ubyte or {part}-ubyte.gz there")
        arrays[part] = torch.from_numpy(_read_idx(found[0]))
    splits = []
    for part in ("train", "t10k"):
        images, labels = arrays[f"{part}-images-idx3"], arrays[f"{part}-labels-idx1"]
        if images.dim() != 3 or labels.dim() != 1 or len(images) != len(labels):
            raise UserError(f"data 'mnist:{folder}': {part} images and labels do not belong together")
        splits.append(Examples(images[:, None], labels.long()))
    classes = int(splits[0].labels.max()) + 1 if len(splits[0]) else 0
    return Data("mnist", splits[0], splits[1], tuple(str(k) for k in range(classes)), UNIT_RANGE)


def _read_idx(path: Path) -> np.ndarray[Any, np.dtype[np.uint8]]:
    try:
        raw = path.read_bytes()
        content = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
        zeros, kind, dims = struct.unpack(">HBB", content[:4])
        if zeros != 0 or kind != 8:
            raise ValueError("not an IDX file of unsigned bytes")
        shape = struct.unpack(f">{dims}I", content[4 : 4 + 4 * dims])
        return np.frombuffer(content, np.uint8, offset=4 + 4 * dims).reshape(shape).copy()
    except (OSError, EOFError, zlib.error, struct.error, ValueError) as error:
        raise UserError(f"data file {path}: cannot read it ({error})") from None


def _read_npz(path: Path) -> Data:
    """Arrays: images as uint8 (n,h,w), (n,h,w,c) or (n,c,h,w), or float inputs of any shape."""
    source = f"data 'npz:{path}'"
    try:
        with path.open("rb") as stream:  # opened here because numpy leaves damaged files open
            file = np.load(stream, allow_pickle=False)
            if isinstance(file, np.ndarray):
                raise UserError(f"{source}: holds a single array, not an .npz file")
            with file:
                arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise UserError(f"{source}: cannot read it ({error})") from None
    for name in ("x_train", "y_train"):
        if name not in arrays:
            raise UserError(f"{source}: no array '{name}' in it (found {', '.join(sorted(arrays)) or 'nothing'})")
    if ("x_test" in arrays) != ("y_test" in arrays):
        raise UserError(f"{source}: x_test and y_test go together")
    parts = {
        part: _array_examples(source, part, arrays[f"x_{part}"], arrays[f"y_{part}"])
        for part in ("train", "test")
        if f"x_{part}" in arrays
    }
    if "test" in parts and parts["test"].inputs.shape[1:] != parts["train"].inputs.shape[1:]:
        raise UserError(f"{source}: x_train and x_test differ in shape")
    names = [str(name) for name in np.atleast_1d(arrays["classes"])] if "classes" in arrays else None
    count = len(names) if names is not None else int(parts["train"].labels.max()) + 1
    for part, examples in parts.items():
        worst = int(examples.labels.max())
        if worst >= count or int(examples.labels.min()) < 0:
            wrong = worst if worst >= count else int(examples.labels.min())
            raise UserError(f"{source}: label {wrong} in y_{part} is out of range for {count} classes")
    train, test = (parts["train"], parts["test"]) if "test" in parts else split(parts["train"], TEST_FRACTION, seed=0)
    classes = tuple(names if names is not None else [str(k) for k in range(count)])
    if all(float(part.floats().min()) >= 0 and float(part.floats().max()) <= 1 for part in (train, test)):
        return Data(path.stem, train, test, classes, UNIT_RANGE)
    std = train.floats().double().std(dim=0, correction=0)
    return Data(path.stem, train, test, classes, UNBOUNDED, torch.where(std > 1e-6, std, 1.0).float())


def _read_parquet(folder: Path) -> Data:
    """`train*.parquet` and `test*.parquet` (or `validation*.parquet`) in the layout of Hugging Face datasets."""
    _require_folder("parquet", folder)
    train = read_split(folder, "train")
    held_out = "test" if any(folder.rglob("test*.parquet")) else "validation"
    test = read_split(folder, held_out)
    if test.classes != train.classes or test.images.shape[1:] != train.images.shape[1:]:
        raise UserError(f"data 'parquet:{folder}': train and {held_out} differ in image size or class names")
    splits = [Examples(torch.from_numpy(part.images), torch.from_numpy(part.labels)) for part in (train, test)]
    return Data(folder.resolve().name, splits[0], splits[1], train.classes, UNIT_RANGE)


def _array_examples(source: str, part: str, inputs: Any, labels: Any) -> Examples:
    if inputs.size == 0 or inputs.ndim < 2:
        raise UserError(f"{source}: x_{part} must hold one row per example, not {inputs.dtype} {inputs.shape}")
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise UserError(f"{source}: y_{part} must be one whole number per example, not {labels.dtype} {labels.shape}")
    if len(inputs) != len(labels):
        raise UserError(f"{source}: x_{part} has {len(inputs)} rows, y_{part} {len(labels)}: they must agree")
    if not (np.issubdtype(inputs.dtype, np.floating) or inputs.dtype == np.uint8):
        raise UserError(f"{source}: x_{part} must be uint8 or float, one row per example, not {inputs.dtype}")
    with np.errstate(over="ignore"):  # too large for float32: found just below
        tensor = torch.from_numpy(inputs if inputs.dtype == np.uint8 else inputs.astype(np.float32))
    if not bool(torch.isfinite(tensor.float()).all()):
        raise UserError(f"{source}: x_{part} holds NaN or infinite values")
    if tensor.dtype == torch.uint8 and tensor.dim() == 3:
        tensor = tensor[:, None]
    elif tensor.dim() == 4 and tensor.shape[3] in (1, 3) and tensor.shape[1] not in (1, 3):
        tensor = tensor.permute(0, 3, 1, 2)
    return Examples(tensor.contiguous(), torch.from_numpy(labels.astype(np.int64)))


def _read_folder(folder: Path, shape: Sequence[int] | None, image_size: int | None) -> Data:
    """Images in one sub-folder per class; `train` and `test` below `folder` where they exist."""
    _require_folder("folder", folder)
    if shape is not None and (len(shape) != 3 or shape[0] not in (1, 3)):
        raise UserError(f"data 'folder:{folder}': holds images, the model expects inputs of shape {tuple(shape)}")
    roots = [folder / "train", folder / "test"] if (folder / "train").is_dir() and (folder / "test").is_dir() else []
    listings = [_list_images(root) for root in roots or [folder]]
    classes = sorted(listings[0])
    if len(listings) == 2 and set(listings[1]) - set(classes):
        extra = sorted(set(listings[1]) - set(classes))[0]
        raise UserError(f"data folder {roots[1]}: class '{extra}' has no training images")
    if len(classes) < 2:
        raise UserError(f"data 'folder:{folder}': found {len(classes)} class, need at least two sub-folders of images")
    paths = [path for listing in listings for images in listing.values() for path in images]
    channels, size = (shape[0], tuple(shape[1:])) if shape is not None else _common_format(paths, image_size)
    parts = [_decode(listing, classes, channels, size) for listing in listings]
    train, test = (parts[0], parts[1]) if len(parts) == 2 else split(parts[0], TEST_FRACTION, seed=0)
    return Data(folder.resolve().name, train, test, tuple(classes), UNIT_RANGE)


def _list_images(root: Path) -> dict[str, list[Path]]:
    folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    listing = {}
    for folder in folders:
        images = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
        if not images:
            raise UserError(f"data folder {folder}: holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
        listing[folder.name] = images
    return listing


def _common_format(paths: list[Path], image_size: int | None) -> tuple[int, tuple[int, ...]]:
    """(channels, (height, width)): grey only if every image is; the common size if at most 64 pixels, else 32."""
    formats = Counter(_read_image(path, lambda image: (image.mode, image.size)) for path in paths)
    grey = all(mode in {"1", "L", "LA", "I", "I;16", "F"} for mode, _ in formats)
    sizes = {size for _, size in formats}
    width, height = next(iter(sizes)) if len(sizes) == 1 else (32, 32)
    if image_size is not None:
        width, height = image_size, image_size
    elif max(width, height) > 64:
        width, height = 32, 32
    return (1 if grey else 3), (height, width)


def _decode(listing: dict[str, list[Path]], classes: list[str], channels: int, size: tuple[int, ...]) -> Examples:
    paths = [(path, label) for label, name in enumerate(classes) for path in listing.get(name, [])]
    inputs = np.empty((len(paths), channels, *size), np.uint8)

    def pixels(image: Image.Image) -> np.ndarray[Any, np.dtype[np.uint8]]:
        image = ImageOps.exif_transpose(image)
        if image.mode in {"I", "I;16", "F"}:  # 16 bits or floats: scale to 8 bits rather than clip
            values = np.asarray(image, np.float64)
            image = Image.fromarray(
                (values * (255 / max(65535.0 if image.mode != "F" else values.max(), 1))).astype("u1")
            )
        image = image.convert("L" if channels == 1 else "RGB")
        if image.size != (size[1], size[0]):
            image = image.resize((size[1], size[0]), Image.Resampling.BILINEAR)
        return np.asarray(image)

    for row, (path, _) in enumerate(paths):
        array = _read_image(path, pixels)
        inputs[row] = array[None] if channels == 1 else array.transpose(2, 0, 1)
    return Examples(torch.from_numpy(inputs), torch.tensor([label for _, label in paths], dtype=torch.int64))


def _read_image(path: Path, look: Callable[[Image.Image], Any]) -> Any:
    try:
        with Image.open(path) as image:
            return look(image)
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"image {path}: cannot read it ({error})") from None


def read_image(path: Path, shape: Sequence[int]) -> Tensor:
    """One image file as floats in [0, 1], resized to `shape` (channels, height, width); UserError names a bad file."""
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise UserError(f"image {path}: the model expects inputs of shape {tuple(shape)}, not images")
    if not path.is_file():
        raise UserError(f"image {path}: {'is not a file' if path.exists() else 'no such file'}")
    return _decode({"": [path]}, [""], shape[0], tuple(shape[1:])).floats()[0]


def _require_folder(kind: str, folder: Path) -> None:
    if not folder.is_dir():
        raise UserError(f"data '{kind}:{folder}': no such folder")
    if not any(folder.iterdir()):
        raise UserError(f"data '{kind}:{folder}': the folder is empty")


def _check(data: Data, spec: str) -> None:
    """What every source must satisfy before anything is trained or measured on it."""
    present = len(torch.unique(data.train.labels))
    if present < 2:
        raise UserError(f"data '{spec}': only {present} class in the training examples, need at least two")
    if len(data.test) == 0:
        raise UserError(f"data '{spec}': the test set is empty")
    twice = [name for name, times in Counter(data.classes).items() if times > 1]
    if twice:
        raise UserError(f"data '{spec}': two classes are called '{twice[0]}'")
    for part, examples in (("training", data.train), ("test", data.test)):
        worst = int(examples.labels.max())
        if worst >= len(data.classes):
            raise UserError(f"data '{spec}': {part} label {worst} is out of range for {len(data.classes)} classes")
    if math.prod(data.shape) == 0:
        raise UserError(f"data '{spec}': inputs of shape {data.shape} are empty")


READERS: dict[str, Callable[..., Data]] = {
    "digits": _read_digits,
    "mnist": _read_mnist,
    "folder": _read_folder,
    "npz": _read_npz,
    "parquet": _read_parquet,
}
"""Data sources by the name before the colon."""
