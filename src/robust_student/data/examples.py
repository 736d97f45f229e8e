"""Examples in memory or memory-mapped, and `Data`: a training set and a test set with what a model must know."""

import hashlib
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from unicodedata import bidirectional, category

import numpy as np
import torch
from torch import Tensor

from robust_student.core.errors import UserError
from robust_student.core.tensors import UNBOUNDED, UNIT_RANGE, InputRange, Shape
from robust_student.data.streams import Stream

STATISTICS_EXAMPLES = 10_000
"""How many training examples the statistics of mapped and streamed data are computed from."""
_BATCH = 256


@dataclass(frozen=True, eq=False)
class Examples:
    """Inputs `(n, *shape)`, stored as uint8 (pixels, 255 meaning 1.0) or float32, and labels `(n,)`."""

    stored: Tensor
    """The inputs; a part of a mapped set shares the inputs of the whole set and knows its `rows`."""
    labels: Tensor
    rows: Tensor | None = None
    """The example's row in `stored`, `(n,)` int64; None: the rows in their order."""
    mapped: bool = False
    """Whether `stored` is mapped from a file on disk: it stays on the host, and only batches are taken from it."""
    content: str | None = None
    """Digest of `stored` where it is known already, as for a file of the cache."""
    groups: Tensor | None = None
    """The number of each example's group, `(n,)` int64: a split leaves groups whole; None: each is on its own."""

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> Shape:
        """Shape of one input."""
        return tuple(self.stored.shape[1:])

    @property
    def inputs(self) -> Tensor:
        """All inputs as stored, `(n, *shape)`; for a part of a mapped set this reads the whole part into memory."""
        return self.stored if self.rows is None else self.stored[self.rows]

    def take(self, indices: Tensor | slice) -> Tensor:
        """Inputs at `indices` as stored, on the device they are stored on."""
        if isinstance(indices, Tensor):
            indices = indices.to(self.stored.device)
        rows = indices if self.rows is None else self.rows[indices]
        return self.stored.index_select(0, rows) if isinstance(rows, Tensor) else self.stored[rows]

    def floats(self, indices: Tensor | slice = slice(None)) -> Tensor:
        """Inputs in their own units as float32: pixels are divided by 255."""
        inputs = self.take(indices)
        return inputs.float() / 255 if inputs.dtype == torch.uint8 else inputs

    def subset(self, indices: Tensor) -> "Examples":
        """The examples at `indices`, in that order; of a mapped set nothing is read."""
        groups = None if self.groups is None else self.groups[indices.cpu()]
        if not self.mapped:
            return Examples(self.inputs[indices], self.labels[indices], groups=groups)
        indices = indices.to(self.labels.device)
        rows = indices.cpu() if self.rows is None else self.rows[indices.cpu()]
        return Examples(self.stored, self.labels[indices], rows, mapped=True, content=self.content, groups=groups)

    def to(self, device: torch.device) -> "Examples":
        """The same examples on another device; mapped inputs stay where they are."""
        stored = self.stored if self.mapped else self.stored.to(device)
        return replace(self, stored=stored, labels=self.labels.to(device))

    def digest(self) -> str:
        """SHA-256 that changes with any input, label, dtype or shape; of a mapped set only the labels are read."""
        if self.content is not None:
            parts = [self.content.encode()] + ([] if self.rows is None else [_bytes(self.rows)])
        else:
            parts = [f"{self.stored.dtype} {tuple(self.stored.shape)}".encode(), _bytes(self.inputs)]
        checksum = hashlib.sha256()
        for part in (*parts, _bytes(self.labels)):
            checksum.update(hashlib.sha256(part).digest())
        return checksum.hexdigest()


@dataclass(frozen=True, eq=False)
class Data:
    """A training set and a test set with everything a model must know about its inputs."""

    name: str
    train: Examples | Stream
    test: Examples
    classes: tuple[str, ...]
    input_range: InputRange
    scale: Tensor | None = None
    """Per-feature unit of a perturbation (the training set's standard deviation) for data without a range."""
    validation: Examples | None = None
    """The source's own examples to choose on; None: a part of the training set is held out."""
    group: str | None = None
    """The column or the pattern of names that says which examples belong together; None: each is on its own."""

    @property
    def shape(self) -> Shape:
        """Shape of one input."""
        return self.train.shape

    @property
    def training_examples(self) -> Examples:
        """The training set at hand; UserError where it is a stream."""
        if isinstance(self.train, Stream):
            raise UserError(f"data '{self.name}': is a stream, and this needs all of the training examples at once")
        return self.train

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the training inputs: per channel for images, else per feature.

        Of all inputs in memory; of STATISTICS_EXAMPLES evenly spread ones where they are mapped, and of that many
        from the start of a shuffled epoch where they are streamed.
        """
        image = len(self.shape) == 3
        dims = (0, 2, 3) if image else (0,)
        if isinstance(self.train, Examples) and not self.train.mapped:
            std, mean = torch.std_mean(self.train.floats().double(), dim=dims, correction=0, keepdim=True)
        else:
            std, mean = _std_mean(self._some(), dims)
        return mean[0].float(), torch.where(std > 1e-6, std, 1.0)[0].float()

    def _some(self) -> Iterator[Tensor]:
        """Batches of the inputs that statistics are computed from, in their own units as float64."""
        if isinstance(self.train, Stream):
            size = min(_BATCH, self.train.length)
            batches = self.train.batches(epoch=1, batch_size=size, seed=0)
            for inputs, _, _ in islice(batches, -(-STATISTICS_EXAMPLES // size)):
                yield inputs.double() / 255 if inputs.dtype == torch.uint8 else inputs.double()
        else:
            count = min(STATISTICS_EXAMPLES, len(self.train))
            spread = torch.arange(count) * len(self.train) // count
            for indices in torch.split(spread, _BATCH):
                yield self.train.floats(indices).double()


def unshowable(names: Sequence[str]) -> str | None:
    """The first name with a character that a terminal or a page cannot show: a control character, half a letter.

    Marks that turn the direction of what follows are among them: with one a name can look like another.
    """
    hidden = ("Cc", "Cs", "Zl", "Zp")  # control characters, halves of UTF-16 pairs, ends of lines and paragraphs
    turning = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
    return next(
        (name for name in names if any(category(c) in hidden or bidirectional(c) in turning for c in name)), None
    )


_LARGEST_CLASSES = 100_000
"""Classes of the largest set whose classes are numbers."""


def numbered(largest: int, place: str) -> tuple[str, ...]:
    """Names of classes that are known by their numbers alone, from 0 to the largest label; `place` names the labels.

    Raises UserError where that label can hardly be the number of a class.
    """
    if largest >= _LARGEST_CLASSES:
        raise UserError(
            f"{place}: label {largest} would mean more than {_LARGEST_CLASSES:,} classes; number them from 0"
        )
    return tuple(str(k) for k in range(largest + 1))


def measured(name: str, parts: Mapping[str, Examples], classes: Sequence[str]) -> Data:
    """Data of `train`, `test` and perhaps `validation`, whose range is read off the inputs.

    The unit range where every input lies in [0, 1]; else none, as in `standardised`.
    """
    if all(_in_unit_range(part) for part in parts.values()):
        validation = parts.get("validation")
        return Data(name, parts["train"], parts["test"], tuple(classes), UNIT_RANGE, validation=validation)
    return standardised(name, parts, classes)


def standardised(name: str, parts: Mapping[str, Examples], classes: Sequence[str]) -> Data:
    """Data without a range: the unit of a perturbation is each feature's standard deviation in the training set.

    That of a feature that is constant there is 1.
    """
    std = parts["train"].floats().double().std(dim=0, correction=0)
    scale = torch.where(std > 1e-6, std, 1.0).float()
    return Data(name, parts["train"], parts["test"], tuple(classes), UNBOUNDED, scale, parts.get("validation"))


def require_sound(data: Data, spec: str) -> None:
    """Raise UserError unless the data are fit to train and measure on; `spec` names them."""
    parts = {"training": data.train, "test": data.test, "validation": data.validation}
    for part, examples in parts.items():
        if isinstance(examples, Examples) and len(examples) == 0:
            raise UserError(f"data '{spec}': the {part} set is empty")
        if examples is not None and examples.shape != data.shape:
            raise UserError(f"data '{spec}': {part} inputs have shape {examples.shape}, the others {data.shape}")
    present = len(torch.unique(data.train.labels)) if isinstance(data.train, Examples) else len(data.classes)
    if present < 2:
        raise UserError(f"data '{spec}': only {present} class in the training examples, need at least two")
    twice = [name for name, times in Counter(data.classes).items() if times > 1]
    if twice:
        raise UserError(f"data '{spec}': two classes are called '{twice[0]}'")
    strange = unshowable(data.classes)
    if strange is not None:
        raise UserError(f"data '{spec}': the class name {strange!r} holds characters that cannot be shown; rename it")
    for part, examples in parts.items():
        if isinstance(examples, Examples):
            least, worst = int(examples.labels.min()), int(examples.labels.max())
            if least < 0 or worst >= len(data.classes):
                wrong = least if least < 0 else worst
                raise UserError(f"data '{spec}': {part} label {wrong} is out of range for {len(data.classes)} classes")
    if math.prod(data.shape) == 0:
        raise UserError(f"data '{spec}': inputs of shape {data.shape} are empty")


def _in_unit_range(examples: Examples) -> bool:
    if examples.stored.dtype == torch.uint8:
        return True
    inputs = examples.floats()
    return float(inputs.min()) >= 0 and float(inputs.max()) <= 1


def _std_mean(batches: Iterator[Tensor], dims: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Standard deviation and mean over `dims` of all batches together, with those dimensions kept.

    Chan's update of means and squared deviations (Chan et al. 1983): as exact as two passes.
    """
    count, mean, squares = 0, torch.zeros(()), torch.zeros(())
    for inputs in batches:
        variance, centre = torch.var_mean(inputs, dim=dims, correction=0, keepdim=True)
        size = inputs.numel() // centre.numel()
        total, shift = count + size, centre - mean
        mean = mean + shift * size / total
        squares = squares + variance * size + shift.square() * (count * size / total)
        count = total
    return (squares / count).sqrt(), mean


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.detach().cpu().contiguous().numpy().reshape(-1).view(np.uint8).data
