"""Any map-style `torch.utils.data.Dataset`: its items become examples."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from robust_student.core.errors import UserError
from robust_student.core.tensors import InputRange
from robust_student.data.cache import store
from robust_student.data.decoding import ALONE, in_order
from robust_student.data.examples import Data, Examples, measured, numbered, require_sound
from robust_student.data.images import GREY, ImageFormat, as_pixels
from robust_student.runtime.hardware import usable_cores

_BATCH = 64


def data_from_datasets(
    train: Dataset[Any],
    test: Dataset[Any],
    *,
    classes: Sequence[str] | None = None,
    validation: Dataset[Any] | None = None,
    input_range: InputRange | None = None,
    name: str = "dataset",
    workers: int | None = None,
) -> Data:
    """Read every item of map-style datasets once, into memory or a mapped file.

    An item is `(input, label)`: a PIL image, a uint8 array or tensor (pixels, 255 meaning 1.0) or a float one, all of
    one shape; channels first, or last where an array's last dimension is 1 or 3 and its first is not. A random
    transform is frozen at its first draw, and `Normalize` would make radii count in its units: leave both out.

    Args:
        train: trained on.
        test: reported on.
        classes: names in the order of the labels; None: `train.classes` where it is there, else the numbers.
        validation: chosen on; None: a part of `train` is held out by the training loop.
        input_range: in which every input lies; None: [0, 1] where all do, else no range, with the standard deviations
            of the training set as units of a perturbation.
        name: recorded with what is trained on the data.
        workers: processes that read; None: one per core where there are many items.

    Raises UserError that names the item that is not as described.
    """
    datasets: dict[str, Dataset[Any] | None] = {"train": train, "test": test, "validation": validation}
    parts = {
        part: _read(dataset, f"data '{name}': {part}", workers)
        for part, dataset in datasets.items()
        if dataset is not None
    }
    class_names = classes if classes is not None else getattr(train, "classes", None)
    largest = max(int(examples.labels.max()) for examples in parts.values())
    names = [str(entry) for entry in class_names] if class_names is not None else numbered(largest, f"data '{name}'")
    if input_range is None:
        data = measured(name, parts, names)
    else:
        for part, examples in parts.items():
            _require_inside(examples, input_range, f"data '{name}': {part}")
        data = Data(name, parts["train"], parts["test"], tuple(names), input_range, validation=parts.get("validation"))
    require_sound(data, name)
    return data


class _Items(Dataset[Any]):
    """Batch k of a dataset's items as arrays and class numbers, or what is wrong with one of them."""

    def __init__(self, dataset: Dataset[Any], count: int, source: str) -> None:
        self.dataset, self.count, self.source = dataset, count, source

    def __len__(self) -> int:
        return -(-self.count // _BATCH)

    def __getitem__(self, k: int) -> Any:
        try:
            items = [self.item(row) for row in range(k * _BATCH, min((k + 1) * _BATCH, self.count))]
        except UserError as error:
            return error
        return [inputs for inputs, _ in items], [label for _, label in items]

    def item(self, row: int) -> tuple[npt.NDArray[Any], int]:
        """Item `row` as an array, channels first, and its class number."""
        item, place = self.dataset[row], f"{self.source} item {row}"
        if not isinstance(item, tuple | list) or len(item) != 2:
            raise UserError(f"{place}: is a {type(item).__name__}, not (input, label)")
        return _as_array(item[0], place), _as_number(item[1], place)


def _read(dataset: Dataset[Any], source: str, workers: int | None) -> Examples:
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
        raise UserError(f"{source}: has no length; give a map-style dataset")
    count = len(dataset)
    if count == 0:
        raise UserError(f"{source}: is empty")
    items = _Items(dataset, count, source)
    first, _ = items.item(0)
    if workers is None:
        workers = usable_cores() if count > ALONE else 1
    labels: list[int] = []

    def blocks() -> Iterator[npt.NDArray[Any]]:
        for inputs, numbers in in_order(items, len(items), workers):
            yield np.stack([_like(array, first, f"{source} item {len(labels) + k}") for k, array in enumerate(inputs)])
            labels.extend(numbers)

    if first.dtype == np.uint8:
        pixels = store((count, *first.shape), blocks, None)
        numbers = torch.tensor(labels, dtype=torch.int64)
        return Examples(pixels.inputs, numbers, mapped=pixels.mapped, content=pixels.content)
    inputs = torch.from_numpy(np.concatenate(list(blocks())))
    if not bool(inputs.isfinite().all()):
        row = int((~inputs.flatten(1).isfinite().all(dim=1)).nonzero()[0])
        raise UserError(f"{source} item {row}: holds NaN or infinite values")
    return Examples(inputs, torch.tensor(labels, dtype=torch.int64))


def _as_array(value: Any, place: str) -> npt.NDArray[Any]:
    if isinstance(value, Image.Image):
        width, height = value.size
        return as_pixels(value, ImageFormat(1 if value.mode in GREY else 3, height, width))
    if not isinstance(value, Tensor | np.ndarray):
        raise UserError(f"{place}: the input is a {type(value).__name__}, not an image, array or tensor")
    array: npt.NDArray[Any] = value.detach().cpu().numpy() if isinstance(value, Tensor) else value
    if array.dtype != np.uint8 and not np.issubdtype(array.dtype, np.floating):
        raise UserError(f"{place}: the input is {array.dtype}, not uint8 or float")
    if array.ndim == 2 and array.dtype == np.uint8:
        array = array[None]
    if array.ndim == 3 and isinstance(value, np.ndarray) and array.shape[2] in (1, 3) and array.shape[0] not in (1, 3):
        array = array.transpose(2, 0, 1)
    return array if array.dtype == np.uint8 else array.astype(np.float32)


def _as_number(label: Any, place: str) -> int:
    if isinstance(label, Tensor | np.ndarray | np.generic) and label.ndim == 0:
        label = label.item()
    if not isinstance(label, int) or label < 0:
        raise UserError(f"{place}: label {label!r} is not a class number")
    return int(label)


def _like(array: npt.NDArray[Any], first: npt.NDArray[Any], place: str) -> npt.NDArray[Any]:
    """The array in the form of the first one: a grey image among coloured ones is repeated over the channels."""
    if array.ndim == 3 and array.shape[0] == 1 and first.shape[0] == 3 and array.shape[1:] == first.shape[1:]:
        array = array.repeat(3, axis=0)
    if array.shape != first.shape or array.dtype != first.dtype:
        description = f"{array.dtype} of shape {array.shape}, the first is {first.dtype} of shape {first.shape}"
        raise UserError(f"{place}: the input is {description}")
    return array


def _require_inside(examples: Examples, limits: InputRange, source: str) -> None:
    for indices in torch.split(torch.arange(len(examples)), _BATCH):
        inputs = examples.floats(indices)
        if float(inputs.min()) < limits.lower or float(inputs.max()) > limits.upper:
            ends = f"from {float(inputs.min()):g} to {float(inputs.max()):g}"
            raise UserError(f"{source}: holds values {ends}, outside the input range {tuple(limits)}")
