"""Whether data are fit for training and for evidence: what a table of accuracies would not show."""

import hashlib
import math

import torch

from robust_student.data.readers.load import Data, Examples, Stream
from robust_student.data.samples import some_examples
from robust_student.doctor.findings import Finding, severity_of
from robust_student.runtime.hardware import readable

_LOOKED_AT = 1_000_000_000
"""Bytes of each part whose content is looked at, evenly spread; a thousand examples at least."""
_IMBALANCE = 10
"""Times as many examples in the largest class as in the smallest from which on it is a note."""
_FEW_TESTED = 100
"""Test examples below which an accuracy has a 95 % interval wider than 20 points."""
_BATCH = 500


def check_data(data: Data, examples: int | None = None) -> list[Finding]:
    """Sizes, classes, ranges and faults of content; `examples` of each part are looked at (None: _LOOKED_AT bytes)."""
    if examples is None:
        examples = max(1000, _LOOKED_AT // math.prod(data.shape))
    train, test = some_examples(data.train, examples), some_examples(data.test, examples)
    whole = len(train) == len(data.train) and len(test) == len(data.test)
    extent = "" if whole else f" (of {len(train):,} training and {len(test):,} test examples looked at)"
    findings = [_sizes(data)]
    findings += _classes(data, train)
    findings += _ranges(data, train)
    findings += [_graded(*fault, extent) for fault in _faults(train, test) if fault[1] > 0]
    if len(data.test) < _FEW_TESTED:
        text = f"only {len(data.test)} test examples: every accuracy has an interval of 20 points or more"
        findings.append(Finding("data", "note", text, "hold out more examples for testing"))
    if len(findings) == 1:
        findings.append(Finding("data", "fine", f"no faults found{extent}"))
    return findings


def _sizes(data: Data) -> Finding:
    size = readable(len(data.train) * math.prod(data.shape))
    inside = "in [{:g}, {:g}]".format(*data.input_range) if data.input_range.bounded else "without a range"
    parts = f"{len(data.train):,} training and {len(data.test):,} test examples"
    validation = f", {len(data.validation):,} for validation" if data.validation is not None else ""
    text = (
        f"{data.name}: {parts}{validation}, shape {data.shape}, {len(data.classes)} classes, {inside}, {size} as bytes"
    )
    return Finding("data", "fine", text)


def _classes(data: Data, train: Examples) -> list[Finding]:
    """Classes that are missing, too small, or much smaller than others."""
    findings = []
    labels = train.labels if isinstance(data.train, Stream) else data.train.labels
    counts = torch.bincount(labels.cpu(), minlength=len(data.classes))
    smallest, largest = int(counts.argmin()), int(counts.argmax())
    of = f"of {len(labels):,} training examples"
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


def _faults(train: Examples, test: Examples) -> list[tuple[str, int, int, str]]:
    """(what, how many, of how many, fix) of every fault of content that is counted."""
    labels_by_key: dict[bytes, set[int]] = {}
    repeated = 0
    for key, label in zip(_keys(train), train.labels.tolist(), strict=True):
        repeated += key in labels_by_key
        labels_by_key.setdefault(key, set()).add(label)
    leaked = sum(key in labels_by_key for key in _keys(test))
    contradictory = sum(len(labels) > 1 for labels in labels_by_key.values())
    still = sum(_constant(part) for part in (train, test)) if math.prod(train.shape) > 1 else 0
    return [
        (
            "test examples are also training examples",
            *(leaked, len(test)),
            "remove them from the training set: accuracy on them is memory",
        ),
        ("training inputs appear with different labels", *(contradictory, len(train)), "correct their labels"),
        (
            "training examples are copies of others",
            *(repeated, len(train)),
            "remove them, or they can stand on both sides of the validation split",
        ),
        (
            "inputs have the same value everywhere",
            *(still, len(train) + len(test)),
            "look at their files: empty or damaged",
        ),
    ]


def _graded(what: str, count: int, of: int, fix: str, extent: str) -> Finding:
    return Finding("data", severity_of(count, of), f"{count:,} of {of:,} {what}{extent}", fix)


def _keys(examples: Examples) -> list[bytes]:
    """One digest per input; equal inputs have equal digests."""
    keys = []
    for part in torch.split(torch.arange(len(examples)), _BATCH):
        rows = examples.take(part).cpu().contiguous().flatten(1).numpy()
        keys += [hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in rows]
    return keys


def _constant(examples: Examples) -> int:
    """How many inputs have one value in all their places."""
    count = 0
    for part in torch.split(torch.arange(len(examples)), _BATCH):
        flat = examples.take(part).flatten(1)
        count += int((flat == flat[:, :1]).all(dim=1).sum())
    return count
