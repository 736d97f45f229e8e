"""Faults of the data are found, and sound data are described."""

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from finding import levels_of
from torch import Tensor

from robust_student.core.tensors import UNBOUNDED, UNIT_RANGE
from robust_student.data.readers.load import Data, Examples, Stream
from robust_student.doctor.data import check_data
from robust_student.doctor.examine import training_parts


def data(n: int = 300, classes: int = 3, **changes: Any) -> Data:
    """Images of random pixels whose faults are what `changes` make them."""
    generator = torch.Generator().manual_seed(0)
    parts = {}
    for part, count in (("train", n), ("test", 120)):
        pixels = torch.randint(0, 256, (count, 1, 4, 4), generator=generator, dtype=torch.uint8)
        parts[part] = Examples(pixels, torch.arange(count) % classes)
    names = tuple(f"class {k}" for k in range(classes))
    return replace(Data("random", parts["train"], parts["test"], names, UNIT_RANGE), **changes)


def with_inputs(part: Examples, **rows: Tensor) -> Examples:
    """The examples with other inputs from the first on."""
    (new,) = rows.values()
    return Examples(torch.cat([new, part.stored[len(new) :]]), part.labels)


SOUND = data()
TRAIN, TEST = SOUND.training_examples, SOUND.test
WIDE = torch.arange(300.0)[:, None] % torch.tensor([2.0, 7.0, 256.0])
STILL = torch.cat([WIDE / 300 - 1, torch.ones(300, 1)], dim=1)


def vectors(inputs: Tensor) -> Data:
    part = Examples(inputs, torch.arange(len(inputs)) % 3)
    return replace(SOUND, train=part, test=Examples(inputs[:150] + 1e-3, part.labels[:150]), input_range=UNBOUNDED)


FAULTS: dict[str, tuple[Data, str, str]] = {
    "leak": (replace(SOUND, test=with_inputs(TEST, rows=TRAIN.stored[:5])), "test examples are also", "problem"),
    "one leak": (
        replace(data(n=300), test=with_inputs(TEST, rows=TRAIN.stored[:1])),
        "1 of 120 test examples are also",
        "note",
    ),
    "copies": (replace(SOUND, train=with_inputs(TRAIN, rows=TRAIN.stored[21:30])), "9 of 300 training", "problem"),
    "labels": (replace(SOUND, train=with_inputs(TRAIN, rows=TRAIN.stored[4:5])), "with different labels", "note"),
    "constant": (
        replace(SOUND, train=with_inputs(TRAIN, rows=torch.full((9, 1, 4, 4), 7, dtype=torch.uint8))),
        "9 of 420 inputs have the same value everywhere",
        "problem",
    ),
    "few": (replace(SOUND, test=TEST.subset(torch.arange(40))), "only 40 test examples", "note"),
    "imbalance": (
        replace(SOUND, train=Examples(TRAIN.stored, torch.tensor([2] * 10 + [1] * 140 + [0] * 150))),
        "classes are imbalanced: 'class 2' has 10",
        "note",
    ),
    "lonely": (
        replace(SOUND, train=Examples(TRAIN.stored, torch.cat([torch.tensor([2]), TRAIN.labels[1:] % 2]))),
        "class 'class 2' has 1 of 300",
        "problem",
    ),
    "untested": (replace(SOUND, test=Examples(TEST.stored, TEST.labels % 2)), "1 of 3 classes have no test", "note"),
    "dark": (
        replace(SOUND, train=Examples(TRAIN.floats() / 255, TRAIN.labels), test=Examples(TEST.floats(), TEST.labels)),
        "divided by 255 twice",
        "problem",
    ),
    "bytes": (vectors(WIDE), "pixels that are taken for standardised features", "problem"),
    "still": (vectors(STILL), "1 of 4 features never change", "note"),
}


@pytest.mark.parametrize("name", list(FAULTS))
def test_a_fault_of_the_data_is_found(name: str) -> None:
    faulty, text, level = FAULTS[name]
    assert levels_of(check_data(faulty), text) == [level]
    assert levels_of(check_data(SOUND), text) == []


def test_sound_data_are_described_in_three_lines() -> None:
    sizes, counts, none = check_data(SOUND)
    assert "300 training and 120 test examples, shape (1, 4, 4), 3 classes, in [0, 1], 4.8 kB as bytes" in sizes.text
    assert counts.text == "training examples by class: 'class 0' 100, 'class 1' 100, 'class 2' 100"
    assert none.text == "no faults found"


def test_of_large_data_a_part_is_looked_at_and_said_so() -> None:
    (_, _, *rest) = check_data(FAULTS["leak"][0], examples=50)
    assert levels_of(rest, "(of 50 training and 50 test examples looked at)")


class Random(Stream):
    """A stream of random pixels."""

    shape, length = (1, 4, 4), 300

    def batches(
        self, *, epoch: int, batch_size: int, seed: int, skip: int = 0, rank: int = 0, world: int = 1
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for start in range(0, self.length - batch_size + 1, batch_size):
            numbers = torch.arange(start, start + batch_size)
            yield TRAIN.take(numbers), TRAIN.labels[numbers], numbers


def test_the_beginning_of_a_stream_is_looked_at() -> None:
    streamed = replace(SOUND, train=Random(), test=FAULTS["leak"][0].test)
    assert levels_of(check_data(streamed), "5 of 120 test examples are also") == ["problem"]
    assert training_parts(streamed) is None


def text_of(data: Data, text: str) -> str:
    (found,) = [finding.text for finding in check_data(data) if text in finding.text]
    return found


def test_the_first_examples_of_a_fault_are_named() -> None:
    """By their numbers where they are no files."""
    copies = "; ".join(f"train example {number} = train example {21 + number}" for number in range(3))
    assert text_of(FAULTS["copies"][0], "are copies").endswith(f": {copies}; ...")
    assert text_of(FAULTS["labels"][0], "with different labels").endswith(": train example 0 = train example 4")
    leak = text_of(FAULTS["one leak"][0], "are also training examples")
    assert leak.endswith(": test example 0 = train example 0")
    still = text_of(FAULTS["constant"][0], "the same value everywhere")
    assert still.endswith(": train example 0; train example 1; train example 2; ...")


def test_the_number_of_an_example_is_that_in_the_whole_part() -> None:
    found = [finding.text for finding in check_data(FAULTS["copies"][0], examples=100)]
    named = [text for text in found if "are copies" in text]
    assert all(int(number) % 3 == 0 for text in named for number in re.findall(r"example (\d+)", text)) and named


def test_of_many_classes_the_largest_and_the_smallest_are_shown() -> None:
    many = data(n=300, classes=40)
    line = text_of(many, "training examples by class")
    assert line.count("'class ") == 12 and "..." in line
    assert line.startswith("training examples by class: 'class 0' 8, ") and line.endswith("'class 39' 7")
