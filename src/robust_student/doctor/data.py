"""Whether data are fit for training and for evidence: what a table of accuracies would not show."""

import hashlib
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from robust_student.data.readers.load import Data, Examples, Stream
from robust_student.data.samples import some_examples
from robust_student.doctor.findings import Finding, severity_of
from robust_student.doctor.image_files import ImageFiles
from robust_student.runtime.hardware import readable

_LOOKED_AT = 1_000_000_000
"""Bytes of each part whose content is looked at, evenly spread; a thousand examples at least."""
_IMBALANCE = 10
"""Times as many examples in the largest class as in the smallest from which on it is a note."""
_FEW_TESTED = 100
"""Test examples below which an accuracy has a 95 % interval wider than 20 points."""
_SHOWN_CLASSES = 12
"""Classes whose sizes are shown, half of them the largest."""
_NAMED = 3
"""Examples that are named for a fault."""
_BATCH = 500


def check_data(data: Data, examples: int | None = None, files: ImageFiles | None = None) -> list[Finding]:
    """Sizes, classes, ranges and faults of content.

    Args:
        data: what is looked at.
        examples: how many of each part; None: _LOOKED_AT bytes.
        files: where the examples are from, by which they are named; None: they are named by their numbers.
    """
    if examples is None:
        examples = max(1000, _LOOKED_AT // math.prod(data.shape))
    train, test = (_Part(part, whole, examples, files) for part, whole in (("train", data.train), ("test", data.test)))
    whole = len(train.examples) == len(data.train) and len(test.examples) == len(data.test)
    looked_at = f"{len(train.examples):,} training and {len(test.examples):,} test examples looked at"
    extent = "" if whole else f" (of {looked_at})"
    findings = _classes(data, train.examples) + _ranges(data, train.examples)
    findings += [fault.finding(extent) for fault in _faults(train, test) if fault.count > 0]
    if len(data.test) < _FEW_TESTED:
        text = f"only {len(data.test)} test examples: every accuracy has an interval of 20 points or more"
        findings.append(Finding("data", "note", text, "hold out more examples for testing"))
    if not findings:
        findings.append(Finding("data", "fine", f"no faults found{extent}"))
    return [_sizes(data), _counts(data, train.examples), *findings]


class _Part:
    """The examples of a part that are looked at, and what each is called."""

    def __init__(self, part: str, whole: Examples | Stream, count: int, files: ImageFiles | None) -> None:
        self.examples = some_examples(whole, count)
        self._part, self._whole, self._files = part, whole, files

    def name(self, position: int) -> str:
        """The file of an example, else its number in the part."""
        if isinstance(self._whole, Stream):
            return f"{self._part} example {position} as streamed"
        number = position * len(self._whole) // len(self.examples)
        return f"{self._part} example {number}" if self._files is None else self._files.name(self._part, number)


@dataclass(frozen=True)
class _Fault:
    """A fault of content that is counted."""

    what: str
    count: int
    of: int
    fix: str
    such_as: tuple[str, ...] = ()
    """The first that have it."""

    def finding(self, extent: str) -> Finding:
        """One line: how many have it, which, and what to do; `extent` says how many were looked at."""
        named = f": {'; '.join(self.such_as[:_NAMED])}" if self.such_as else ""
        more = "; ..." if len(self.such_as) > _NAMED else ""
        text = f"{self.count:,} of {self.of:,} {self.what}{extent}{named}{more}"
        return Finding("data", severity_of(self.count, self.of), text, self.fix)


def _sizes(data: Data) -> Finding:
    size = readable(len(data.train) * math.prod(data.shape))
    inside = "in [{:g}, {:g}]".format(*data.input_range) if data.input_range.bounded else "without a range"
    parts = f"{len(data.train):,} training and {len(data.test):,} test examples"
    validation = f", {len(data.validation):,} for validation" if data.validation is not None else ""
    text = (
        f"{data.name}: {parts}{validation}, shape {data.shape}, {len(data.classes)} classes, {inside}, {size} as bytes"
    )
    return Finding("data", "fine", text)


def _class_sizes(data: Data, train: Examples) -> Tensor:
    """Training examples of each class, `(classes,)`; of a stream among those that are looked at."""
    labels = train.labels if isinstance(data.train, Stream) else data.train.labels
    return torch.bincount(labels.cpu(), minlength=len(data.classes))


def _counts(data: Data, train: Examples) -> Finding:
    """How many training examples each class has, the largest classes first."""
    counts = _class_sizes(data, train)
    order = counts.argsort(descending=True, stable=True).tolist()
    words = [f"'{data.classes[k]}' {int(counts[k]):,}" for k in order]
    if len(words) > _SHOWN_CLASSES:
        half = _SHOWN_CLASSES // 2
        words = [*words[:half], "...", *words[-half:]]
    return Finding("data", "fine", f"training examples by class: {', '.join(words)}")


def _classes(data: Data, train: Examples) -> list[Finding]:
    """Classes that are missing, too small, or much smaller than others."""
    findings = []
    counts = _class_sizes(data, train)
    smallest, largest = int(counts.argmin()), int(counts.argmax())
    of = f"of {int(counts.sum()):,} training examples"
    if counts[smallest] < 2:
        text = f"class '{data.classes[smallest]}' has {int(counts[smallest])} {of}"
        fix = "add examples, or leave the class out: it can be neither learnt nor held out"
        findings.append(Finding("data", "problem", text, fix))
    elif counts[largest] > _IMBALANCE * counts[smallest]:
        few, many = (f"'{data.classes[k]}' has {int(counts[k]):,}" for k in (smallest, largest))
        fix = "collect more of the small classes, or read the report's accuracy by class"
        findings.append(Finding("data", "note", f"classes are imbalanced: {few}, {many} {of}", fix))
    untested = [data.classes[k] for k in range(len(data.classes)) if not bool((data.test.labels == k).any())]
    if untested:
        text = f"{len(untested)} of {len(data.classes)} classes have no test example, such as '{untested[0]}'"
        findings.append(Finding("data", "note", text, "add some: their accuracy would not be measured"))
    return findings


def _ranges(data: Data, train: Examples) -> list[Finding]:
    """Values that look like pixels in another unit, and features that never change."""
    findings = []
    least, most, whole = train.floats(slice(0, 1))[0], train.floats(slice(0, 1))[0], True
    for part in torch.split(torch.arange(len(train)), _BATCH):
        inputs = train.floats(part)
        least, most = torch.minimum(least, inputs.amin(dim=0)), torch.maximum(most, inputs.amax(dim=0))
        whole = whole and bool((inputs == inputs.round()).all())
    low, high = float(least.min()), float(most.max())
    if data.input_range.bounded and high < 0.1 * data.input_range.upper:
        text = f"the largest value is {high:.2g} of {data.input_range.upper:g}: pixels divided by 255 twice?"
        findings.append(Finding("data", "problem", text, "store uint8 pixels, or floats from 0 to 1"))
    if not data.input_range.bounded and whole and low >= 0 and 100 < high <= 255:
        text = "whole numbers up to 255 as floats: pixels that are taken for standardised features"
        findings.append(Finding("data", "problem", text, "store them as uint8, or divide by 255"))
    still = int((least == most).sum())
    if len(data.shape) == 1 and still:
        text = f"{still} of {data.shape[0]} features never change in training"
        findings.append(Finding("data", "note", text, "leave them out: any change of them at test time is unknown"))
    return findings


def _faults(train: _Part, test: _Part) -> list[_Fault]:
    """Every fault of content that is counted."""
    first: dict[bytes, int] = {}
    copies: list[str] = []
    contradictions: dict[bytes, str] = {}
    labels = train.examples.labels.tolist()
    for position, key in enumerate(_keys(train.examples)):
        original = first.setdefault(key, position)
        if original == position:
            continue
        pair = f"{train.name(original)} = {train.name(position)}"
        copies.append(pair)
        if labels[position] != labels[original]:
            contradictions.setdefault(key, pair)
    leaks = [
        f"{test.name(position)} = {train.name(first[key])}"
        for position, key in enumerate(_keys(test.examples))
        if key in first
    ]
    of = len(train.examples)
    still = [(part, position) for part in (train, test) for position in _constant(part.examples)]
    return [
        _Fault(
            "test examples are also training examples",
            *(len(leaks), len(test.examples)),
            "remove them from the training set: accuracy on them is memory",
            tuple(leaks),
        ),
        _Fault(
            "training inputs appear with different labels",
            *(len(contradictions), of),
            "correct their labels",
            tuple(contradictions.values()),
        ),
        _Fault(
            "training examples are copies of others",
            *(len(copies), of),
            "remove them, or they can stand on both sides of the validation split",
            tuple(copies),
        ),
        _Fault(
            "inputs have the same value everywhere",
            *(len(still), of + len(test.examples)),
            "look at their files: empty or damaged",
            tuple(part.name(position) for part, position in still),
        ),
    ]


def _keys(examples: Examples) -> list[bytes]:
    """One digest per input; equal inputs have equal digests."""
    keys = []
    for part in torch.split(torch.arange(len(examples)), _BATCH):
        rows = examples.take(part).cpu().contiguous().flatten(1).numpy()
        keys += [hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in rows]
    return keys


def _constant(examples: Examples) -> list[int]:
    """Positions of the inputs with one value in all their places; none where an input is a single number."""
    if math.prod(examples.shape) == 1:
        return []
    positions = []
    for part in torch.split(torch.arange(len(examples)), _BATCH):
        flat = examples.take(part).flatten(1)
        positions += part[(flat == flat[:, :1]).all(dim=1).cpu()].tolist()
    return positions
