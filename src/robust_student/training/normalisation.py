"""Whether a teacher gets its inputs as in its training: its accuracy with this normalisation, others and a probe's."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool
from scipy.stats import binom
from torch import Tensor

from robust_student.core.tensors import answers
from robust_student.data.examples import Data, Examples
from robust_student.data.samples import stratified_sample
from robust_student.data.streams import Stream
from robust_student.models.model import Model
from robust_student.results.comparison import mcnemar
from robust_student.training.linear_probe import probe_answers

_EXAMPLES = 256
"""Validation examples looked at, at most."""
_ERROR = 0.001
"""Error probability of each test."""
_MOST_SHOWN = 3
"""Values of a mean that a message shows."""
Right = Bool[Tensor, " examples"]
"""Which examples are answered right."""


class Other(NamedTuple):
    """What a teacher does with another normalisation."""

    how: str
    """In words, such as "without a normalisation"."""
    right: Right
    fix: str
    """What it would mean, and the flags that ask for it."""


class Doubt(NamedTuple):
    """What is wrong with a teacher's normalisation."""

    text: str
    fix: str
    certain: bool
    """Whether it is clearly broken and another one clearly right."""


@dataclass(frozen=True, eq=False)
class Normalisations:
    """A teacher on the same validation examples with its own normalisation, with others, and rivals without one."""

    own: Right
    others: tuple[Other, ...]
    probe: Right
    """A linear model on the inputs."""
    largest: float
    """Share of the largest class."""
    from_elsewhere: bool
    """Whether normalisation and class names are what a user or a library says; else they are those of its training."""

    @property
    def rivals(self) -> str:
        """What is reached without a teacher, as a phrase."""
        return f"a linear model on the inputs reaches {_percent(self.probe)}, the largest class {_share(self.largest)}"

    def doubt(self) -> Doubt | None:
        """What is wrong, by McNemar's exact tests at the level of 0.1 %; None: nothing that can be told."""
        better = [other for other in self.others if _better(other.right, self.own)]
        accuracy = f"teacher accuracy on validation is {_percent(self.own)}"
        if better:
            best = next(one for one in better if not any(_better(other.right, one.right) for other in better))
            text = f"{accuracy}, but {_percent(best.right)} {best.how} (n = {len(self.own)}; {self.rivals})"
            sound = not _better(self.probe, best.right) and not self._like_largest(best.right)
            broken = _better(self.probe, self.own) or self._like_largest(self.own)
            return Doubt(text, best.fix, certain=sound and broken)
        if _better(self.probe, self.own):
            numbers = f"{_percent(self.probe)} of validation right, the teacher {_percent(self.own)}"
            fix = "train it longer, or choose a larger network"
            if self.from_elsewhere:
                fix = "check its normalisation and class order (--teacher-mean, --teacher-std, --teacher-classes)"
            text = f"a linear model on the inputs answers {numbers} (n = {len(self.own)})"
            return Doubt(text, fix, certain=False)
        return None

    def _like_largest(self, right: Right) -> bool:
        """Whether an accuracy cannot be told from that of always naming the largest class."""
        return bool(binom.sf(int(right.sum()) - 1, len(right), self.largest) > _ERROR)


def compare_normalisations(
    teacher: Model, data: Data, source: Examples | Stream, validation: Examples
) -> Normalisations:
    """Try a teacher on at most 256 validation examples, stratified, with other normalisations than its own.

    `source` is what is left of the training set without them, from which the linear model learns.

    A run directory's is part of its training, so no other is tried; nor where so few answers are wrong that no other
    could be shown to be better.
    """
    count = min(_EXAMPLES, len(validation))
    sample = validation.subset(stratified_sample(validation.labels, count, seed=0))
    inputs, labels = sample.floats().cpu(), sample.labels.cpu()

    def right(model: Model) -> Right:
        return answers(model.logits(inputs, batch=64)) == labels

    own = right(teacher)
    others = []
    from_elsewhere = "source" in teacher.card.provenance
    if from_elsewhere and mcnemar(int((~own).sum()), 0) < _ERROR:
        for how, mean, std, fix in _alternatives(teacher, data):
            others.append(
                Other(how, right(Model(teacher.network, teacher.card, mean, std).to(teacher.mean.device)), fix)
            )
    probe = probe_answers(data, source, inputs) == labels
    return Normalisations(own, tuple(others), probe, float(torch.bincount(labels).max()) / count, from_elsewhere)


def _alternatives(teacher: Model, data: Data) -> list[tuple[str, Tensor, Tensor, str]]:
    """(how, mean, std, fix) of no normalisation and the training set's own, but for the one that the teacher has."""
    present = teacher.mean.cpu(), teacher.std.cpu()
    none = torch.zeros_like(present[0]), torch.ones_like(present[1])
    tried = []
    if not all(map(torch.equal, none, present)):
        fix = "its network seems to normalise its inputs itself; give --teacher-mean 0 --teacher-std 1"
        tried.append(("without its normalisation", *none, fix))
    mean, std = data.statistics()
    flags = "--teacher-mean and --teacher-std"
    if mean.numel() <= _MOST_SHOWN:
        flags = f"--teacher-mean {_words(mean)} --teacher-std {_words(std)}"
    fix = f"its network seems to expect other inputs; give {flags}, or better those of its training"
    form = (mean + present[0]).shape
    tried.append(("with the mean and standard deviation of the training set", mean.expand(form), std.expand(form), fix))
    return tried


def _better(first: Right, second: Right) -> bool:
    """Whether the first is right more often, by more than chance."""
    gained, lost = int((first & ~second).sum()), int((second & ~first).sum())
    return gained > lost and mcnemar(gained, lost) < _ERROR


def _percent(right: Right) -> str:
    return _share(float(right.double().mean()))


def _share(value: float) -> str:
    return f"{100 * value:.1f} %"


def _words(values: Tensor) -> str:
    return " ".join(f"{value:.3g}" for value in values.flatten().tolist())
