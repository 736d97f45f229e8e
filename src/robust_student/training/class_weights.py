"""Weights of the classes in the loss, so that a rare class counts as much as a frequent one."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from robust_student.core.errors import UserError
from robust_student.core.tensors import Labels, PerExample
from robust_student.data.examples import Examples
from robust_student.data.streams import Stream

ClassWeights = Literal["balanced"]
"""How classes are weighted: by the inverse of their frequency."""


def class_weights(source: Examples | Stream, kind: ClassWeights | None) -> Float[Tensor, " classes"] | None:
    """w_k = n / (K n_k), with n_k of the n training examples in class k and K classes that occur; mean 1 over examples.

    None where every example counts the same. Raises UserError for a stream, whose classes are not counted beforehand.
    """
    if kind is None:
        return None
    if isinstance(source, Stream):
        raise UserError("class_weights: the classes of a stream are not counted beforehand; leave class_weights out")
    counts = torch.bincount(source.labels)
    present = counts > 0
    return torch.where(present, len(source) / (present.sum() * counts.clamp_min(1)), 0.0)


def example_weights(
    weights: Float[Tensor, " classes"] | None, labels: Labels, others: Labels | None, shares: PerExample | None
) -> PerExample | None:
    """The weight of each example: its class's; of a mixture the mean of both classes', by their shares."""
    if weights is None or others is None or shares is None:
        return None if weights is None else weights[labels]
    return shares * weights[labels] + (1 - shares) * weights[others]
