"""Which examples: stratified and nested samples, and the ways a set is divided in two."""

import hashlib
import logging
import unicodedata
from collections.abc import Mapping, Sequence
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from robust_student.core.errors import UserError
from robust_student.data.examples import Data, Examples
from robust_student.data.groups import coarseness, grouped_sample
from robust_student.data.streams import Stream

_log = logging.getLogger(__name__)

_BATCH = 500
"""Examples that are taken from a stream at a time."""
TEST_FRACTION = 0.2
"""Share of the examples held out for testing where a source has no test split of its own."""


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
    size = min(examples or len(labels), len(labels))
    positions = stratified_sample(labels, size, seed)
    counts = [min(size if count is None else count, size) for count in inner]
    borders = {0, size}
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
    """Divide into (rest, held out), the latter a stratified `fraction` of the examples; the seed fixes the split.

    Where the examples have groups, each stays whole, and the fraction is met as closely as they allow.
    """
    count = max(1, round(fraction * len(examples)))
    if count >= len(examples):
        raise UserError(f"split: {len(examples)} examples are too few to hold out a fraction of {fraction}")
    if examples.groups is None:
        held_out = stratified_sample(examples.labels, count, seed)
    else:
        held_out = grouped_sample(examples.labels, examples.groups, fraction, seed)
    is_rest = torch.ones(len(examples), dtype=torch.bool)
    is_rest[held_out] = False
    return examples.subset(is_rest.nonzero()[:, 0]), examples.subset(held_out.sort().values)


def with_test_part(parts: Mapping[str, Examples], classes: Sequence[str]) -> dict[str, Examples]:
    """The parts of a source; where it has no test part, a stratified fifth of the training part, always the same."""
    if "test" in parts:
        return dict(parts)
    train, test = split(parts["train"], TEST_FRACTION, seed=0)
    coarse = coarseness(train, test, TEST_FRACTION, classes)
    if coarse is not None:
        _log.warning("group: test part: %s", coarse)
    return {**parts, "train": train, "test": test}


def training_and_validation(data: Data, fraction: float, seed: int) -> tuple[Examples | Stream, Examples]:
    """What to train on and what to choose by: the data's own validation part, else a `fraction` of its training set.

    Raises UserError for a stream without a validation part.
    """
    if data.validation is not None:
        return data.train, data.validation
    if isinstance(data.train, Stream):
        raise UserError(f"data '{data.name}': a stream needs a validation part of its own (nothing can be held out)")
    return split(data.train, fraction, seed)


def some_examples(examples: Examples | Stream, count: int) -> Examples:
    """At most `count` examples: evenly spread ones, or the first of a stream's first epoch, up to a whole batch."""
    if isinstance(examples, Stream):
        batches = examples.batches(epoch=1, batch_size=min(_BATCH, len(examples)), seed=0)
        parts = list(islice(batches, -(-count // min(_BATCH, len(examples)))))
        return Examples(torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts]))
    if len(examples) <= count:
        return examples
    return examples.subset(torch.arange(count) * len(examples) // count)


def held_out_by_name(name: str) -> bool:
    """Whether the example of that name belongs to the TEST_FRACTION held out for testing: by its name alone.

    The SHA-256 of the name (Unicode form NFC, so that copies on other file systems agree) falls into the lowest fifth.
    """
    digest = hashlib.sha256(unicodedata.normalize("NFC", name).encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8]) < TEST_FRACTION * 2**64
