"""Accuracy balanced over classes: the mean of their recalls, to which one answer for everything adds nothing."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Int64
from torch import Tensor

from robust_student.core.tensors import Labels
from robust_student.runtime import distributed

_ALIKE = 1.5  # times the smallest class that the largest may have before accuracy itself is recorded, too
_LEVEL = 2.33  # standard errors: one guess in a hundred gets as far


class BalancedClasses:
    """The labels of a sample, each measured by one process, and what accuracies balanced over them mean."""

    def __init__(self, labels: Labels) -> None:
        """Classes without an example in the sample do not count."""
        self.labels = labels.cpu()
        self.sizes = torch.bincount(self.labels)
        self._present = self.sizes > 0

    @property
    def alike(self) -> bool:
        """Whether the classes are about equally large, so that balanced accuracy is about the usual one."""
        present = self.sizes[self._present]
        return int(present.max()) <= _ALIKE * int(present.min())

    @property
    def equivalent(self) -> float:
        """K^2 / sum_k 1 / n_k: how many examples of equally large classes would be as certain."""
        present = self.sizes[self._present].double()
        return float(len(present) ** 2 / (1 / present).sum())

    @property
    def guess(self) -> float:
        """1 / K, the balanced accuracy to expect of guessing."""
        return 1 / int(self._present.sum())

    @property
    def chance(self) -> float:
        """The balanced accuracy that guessing among K classes exceeds in one of a hundred samples.

        1 / K + 2.33 sqrt((1 - 1 / K) / (K n)), with the equivalent number n, but at most half-way from 1 / K to 1. One
        answer for everything gets 1 / K. -1 where there is one class only.
        """
        guess = self.guess
        if guess == 1:
            return -1.0
        return guess + min(_LEVEL * math.sqrt(guess * (1 - guess) / self.equivalent), (1 - guess) / 2)

    def hits(self, right: Sequence[Tensor], device: torch.device) -> Int64[Tensor, " classes"]:
        """Right answers of each class over all processes, from those to the examples at this one's positions."""
        own = self.labels[own_positions(len(self.labels))]
        count = torch.bincount(own[torch.cat([part.cpu() for part in right])], minlength=len(self.sizes))
        return distributed.all_reduce_sum(count.to(device)).cpu()

    def accuracy(self, hits: Int64[Tensor, " classes"]) -> float:
        """Mean of the classes' recalls."""
        return float((hits[self._present].double() / self.sizes[self._present]).mean())


def own_positions(count: int) -> Tensor:
    """Positions of the examples that this process measures: each example is one process's."""
    return torch.arange(distributed.rank(), count, distributed.size())
