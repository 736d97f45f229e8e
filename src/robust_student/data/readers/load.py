"""Data from a spec: every source by its name, and what all of them must satisfy."""

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch

from robust_student.core.errors import UserError, nearest
from robust_student.core.tensors import UNIT_RANGE
from robust_student.data.examples import Data as Data
from robust_student.data.examples import Examples as Examples
from robust_student.data.examples import require_sound
from robust_student.data.groups import NO_GROUPS, shared_groups
from robust_student.data.images import read_image as read_image
from robust_student.data.readers import csv_table, huggingface, huggingface_stream, webdataset
from robust_student.data.readers.cifar import read_cifar10, read_cifar100
from robust_student.data.readers.csv_table import read_csv
from robust_student.data.readers.huggingface import read_hf
from robust_student.data.readers.huggingface_stream import read_hf_stream
from robust_student.data.readers.image_folder import read_folder
from robust_student.data.readers.mnist import read_idx
from robust_student.data.readers.npz import read_npz
from robust_student.data.readers.parquet import read_parquet
from robust_student.data.readers.torch_dataset import data_from_datasets as data_from_datasets
from robust_student.data.readers.webdataset import read_wds
from robust_student.data.samples import nested_sample as nested_sample
from robust_student.data.samples import split as split
from robust_student.data.samples import stratified_sample as stratified_sample
from robust_student.data.spec import Spec, parse_options
from robust_student.data.streams import Stream as Stream
from robust_student.runtime.hardware import usable_cores

_log = logging.getLogger(__name__)

_FILES_OF = {"mnist": "*-idx3-ubyte*", "parquet": "*.parquet", "cifar10": "data_batch_1*"}
"""Name of a source -> files by which its folder is known."""
_SMALLEST_IMAGE_SIZE, _LARGEST_IMAGE_SIZE = 4, 4096
"""Pixels to which a side of an image may be resized."""


def load_data(
    spec: str,
    *,
    shape: Sequence[int] | None = None,
    image_size: int | tuple[int, int] | None = None,
    group: str | None = None,
    workers: int | None = None,
) -> Data:
    """Read the data that `spec` names.

    Args:
        spec: `KIND:PLACE[,NAME=VALUE...]`: `digits` (embedded), `mnist:DIR`, `cifar10:DIR`, `cifar100:DIR`,
            `folder:DIR`, `parquet:DIR`, `npz:FILE`, `csv:FILE`, `hf:NAME_OR_PATH`, and streams: `wds:PATTERN`,
            `hf-stream:NAME_OR_PATH`. docs/data.md has every source with its options and rules.
        shape: shape of one input that a model expects; image files are read that way, other data must have it.
        image_size: side, or height and width, in pixels to which image files are resized.
        group: what says which examples belong together (one person, device or track), so that no split parts them: the
            name of a column, or a regular expression with one capture group for the names of files; None or "none":
            each example is on its own.
        workers: processes that decode images; None: one per core. The data do not depend on it.

    Raises UserError where anything about the data is wrong. Where there is no test split, a fifth of the examples is
    set aside, the same ones every time.
    """
    start, _, rest = spec.partition(":")
    name = start.partition(",")[0]
    if name not in READERS:
        raise UserError(f"data: unknown name '{name}'" + (_reader_of(spec) or nearest(name, list(READERS))))
    reader = READERS[name]
    if not reader.place and spec != name:
        raise UserError(f"data '{spec}': {name} takes no place and no options; write '{name}'")
    if reader.place and (not rest or start != name):
        raise UserError(f"data '{spec}': has no place; write one, as in '{name}:{reader.place}'")
    if image_size is not None and not reader.decodes:
        sources = ", ".join(f"{kind}:" for kind, entry in READERS.items() if entry.decodes)
        raise UserError(f"data '{spec}': image_size applies to image files only ({sources})")
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    wrong = next((side for side in size or () if not _SMALLEST_IMAGE_SIZE <= side <= _LARGEST_IMAGE_SIZE), None)
    if wrong is not None:
        raise UserError(
            f"data '{spec}': image_size {wrong} is not between {_SMALLEST_IMAGE_SIZE} and {_LARGEST_IMAGE_SIZE} pixels"
        )
    place, options = parse_options(spec, rest, reader.options)
    expected_shape = None if shape is None else tuple(shape)
    group = None if group == NO_GROUPS else group
    if group is not None and not reader.grouped:
        sources = ", ".join(f"{kind}:" for kind, entry in READERS.items() if entry.grouped)
        raise UserError(f"data '{spec}': group applies to {sources} only, whose examples have names or columns")
    cores = usable_cores() if workers is None else workers
    data = replace(reader.read(Spec(spec, place, options, expected_shape, size, group, cores)), group=group)
    if expected_shape is not None and expected_shape != data.shape:
        raise UserError(f"data '{spec}': inputs have shape {data.shape}, the model expects {expected_shape}")
    require_sound(data, spec)
    shared = shared_groups(data)
    if shared is not None:
        _log.warning("group: %s; what is measured there is too good", shared)
    return data


def _reader_of(path: str) -> str:
    """The end of a complaint about a path without the name of a source: how to write it; empty where it is no path."""
    place = Path(path)
    try:
        if path and place.is_dir():
            names = {name for name, ending in _FILES_OF.items() if next(place.glob(ending), None)}
        else:
            names = {reader for reader in READERS if place.is_file() and place.suffix == f".{reader}"}
            if not names:
                return ""
    except OSError:  # a name that is too long
        return ""
    return f"; that is a path: write {min(names, default='folder')}:{path}"


def require_outside(output: Path, spec: str) -> None:
    """Raise UserError where `output` lies in the folder that the data `spec` are read from: it would become data."""
    name, _, rest = spec.partition(":")
    if name not in READERS or not rest:
        return  # for load_data to refuse
    folder = Path(parse_options(spec, rest, READERS[name].options)[0])
    if folder.is_dir() and Path(os.path.realpath(output)).is_relative_to(folder.resolve()):
        raise UserError(f"output {output}: lies in the folder of the data, {folder}; choose a place outside it")


def _read_digits(_: Spec) -> Data:
    """The 1,797 8x8 digits embedded in scikit-learn; a fixed stratified fifth and a bit (400) is the test set."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    inputs = torch.from_numpy(images / 16).float().view(-1, 1, 8, 8)
    train, test = split(Examples(inputs, torch.from_numpy(labels).long()), 400 / len(labels), seed=0)
    return Data("digits", train, test, tuple("0123456789"), UNIT_RANGE)


class Reader(NamedTuple):
    """A data source."""

    read: Callable[[Spec], Data]
    place: str = ""
    """What follows the colon, as shown in a complaint; empty: nothing does."""
    decodes: bool = False
    """Whether it decodes image files, and so can resize them."""
    grouped: bool = False
    """Whether its examples have names or columns by which they can be grouped."""
    options: tuple[str, ...] = ()
    """Names that may follow the place as `,NAME=VALUE`."""


READERS: dict[str, Reader] = {
    "digits": Reader(_read_digits),
    "mnist": Reader(read_idx, "DIR"),
    "folder": Reader(read_folder, "DIR", decodes=True, grouped=True),
    "npz": Reader(read_npz, "FILE.npz"),
    "parquet": Reader(read_parquet, "DIR", decodes=True, grouped=True),
    "csv": Reader(read_csv, "FILE.csv", grouped=True, options=csv_table.OPTIONS),
    "hf": Reader(read_hf, "NAME_OR_PATH", decodes=True, grouped=True, options=huggingface.OPTIONS),
    "wds": Reader(read_wds, "PATTERN", decodes=True, options=webdataset.OPTIONS),
    "hf-stream": Reader(read_hf_stream, "NAME_OR_PATH", decodes=True, options=huggingface_stream.OPTIONS),
    "cifar10": Reader(read_cifar10, "DIR"),
    "cifar100": Reader(read_cifar100, "DIR"),
}
"""Data sources by the name before the colon."""
