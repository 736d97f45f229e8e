"""Randomized smoothing: an L2 radius certified for the smoothed classifier (Cohen, Rosenfeld & Kolter 2019).

The smoothed classifier is `g(x) = argmax_k P(argmax f(x + sigma n) = k)` with n standard normal: another classifier
than the network f, slower and usually less accurate. Its radius says nothing about f itself.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Float64
from scipy import special, stats
from torch import Tensor, nn

from robust_student.core.errors import UserError
from robust_student.core.module_state import evaluating
from robust_student.core.norms import Norm
from robust_student.core.tensors import Inputs, Labels, answers

ABSTAIN = -1
"""The prediction where the draws do not settle the class."""
_Counts: TypeAlias = npt.NDArray[np.int64]
_BELOW = 1 - 2.0**-49  # eight machine epsilons: the quantile functions of scipy err by about two


class SmoothedRadius(NamedTuple):
    """What certification found out about the smoothed classifier, one element per example, on the CPU."""

    prediction: Labels
    """The class of g at the input, or `ABSTAIN`."""
    radius: Float64[Tensor, " batch"]
    """Certified lower bound on the distance at which g changes its decision, in units of the norm; 0 if abstaining."""
    successes: Labels
    """How many of the estimation draws voted for the selected class; counted where it abstains, too."""


class _Stream(IntEnum):
    """The independent sources of noise that every example's seed has."""

    SELECTION = 0
    ESTIMATION = 1


def certified_smoothing_radius(
    network: nn.Module,
    inputs: Inputs,
    *,
    norm: Norm,
    sigma: float,
    samples: int = 10_000,
    selection_samples: int = 100,
    alpha: float = 0.001,
    seeds: Sequence[int],
    chunk: int = 1000,
) -> SmoothedRadius:
    """Certified L2 radius of the smoothed classifier at each input, `R = sigma Phi^-1(p)`.

    The class with most of `selection_samples` votes is selected (on a tie the smallest); of `samples` fresh votes k are
    for it; p is the one-sided Clopper-Pearson lower bound at confidence 1 - alpha on its probability, the solution of
    `P(Binomial(samples, p) >= k) = alpha`; it abstains where p <= 1/2. This is CERTIFY (Cohen et al. 2019, theorem 1
    and section 3.2.2). No R exceeds `sigma Phi^-1(alpha^(1 / samples))`.

    The statement "g decides for `prediction` at every point nearer than `radius`" is true with probability at least
    1 - alpha over the noise, for each example by itself and not for all of them at once, and up to the rounding of the
    network's own arithmetic (float32). p and R are rounded down by a relative 2^-49, which is more than the errors of
    the beta and normal quantiles.

    Units: those of the norm, whose per-feature scale multiplies the noise. `sigma` is in the same units. The noise is
    never clipped to the input range: the theorem is about a Gaussian centred at any point of the ball, and clipping
    would make its shape depend on the point. Noise comes from `seeds`, one per example, and no pass mixes examples:
    results do not depend on the batch an example is in. `chunk` noisy inputs at a time go through the network, which
    bounds the memory; it does not change the noise. Raises UserError.
    """
    smoothed = _Smoothed(network, norm, sigma, chunk)
    _check_draws(inputs, seeds, alpha, {"samples": samples, "selection_samples": selection_samples})
    selected, successes = [], []
    with torch.no_grad(), evaluating(network):
        for example, seed in zip(inputs, seeds, strict=True):
            winner = int(smoothed.votes(example, seed, _Stream.SELECTION, selection_samples).argmax())
            selected.append(winner)
            successes.append(int(smoothed.votes(example, seed, _Stream.ESTIMATION, samples)[winner]))
    probability = [_lower_bound(count, samples, alpha) for count in successes]
    radius = [_BELOW * sigma * float(special.ndtri(p)) if p > 0.5 else 0.0 for p in probability]
    prediction = [winner if p > 0.5 else ABSTAIN for winner, p in zip(selected, probability, strict=True)]
    return SmoothedRadius(_integers(prediction), torch.tensor(radius, dtype=torch.float64), _integers(successes))


@dataclass(frozen=True, eq=False)
class _Smoothed:
    """A network under Gaussian noise of standard deviation `sigma` in the norm's units."""

    network: nn.Module
    norm: Norm
    sigma: float
    chunk: int

    def __post_init__(self) -> None:
        if self.norm.p != 2:
            raise UserError(f"smoothing: Gaussian noise certifies l2 only, not {self.norm.name}; choose the norm l2")
        if not 0 < self.sigma < math.inf:
            raise UserError(f"smoothing: sigma must be positive and finite, not {self.sigma}")
        if self.chunk < 1:
            raise UserError(f"smoothing: chunk must be at least 1, not {self.chunk}")

    def votes(self, example: Float[Tensor, "*shape"], seed: int, stream: _Stream, samples: int) -> _Counts:
        """How many of `samples` noisy copies of one input the network puts into each class; NaN logits vote for none.

        numpy draws number after number, so that the noise does not depend on the size of the chunks. torch's CPU
        generator does not do that, and tells seeds apart by their last 32 bits only.
        """
        source = np.random.SeedSequence(seed, spawn_key=(int(stream),))
        generator = np.random.Generator(np.random.PCG64(source))
        spread = self.sigma if self.norm.scale is None else self.sigma * self.norm.scale.to(example)
        counts = np.zeros(0, dtype=np.int64)
        for done in range(0, samples, self.chunk):
            size = (min(self.chunk, samples - done), *example.shape)
            noise = torch.from_numpy(generator.standard_normal(size, dtype=np.float32)).to(example)
            logits = self.network(example + spread * noise)
            classes = answers(logits).cpu()
            part = torch.bincount(classes[classes >= 0], minlength=logits.shape[1]).numpy()
            counts = part + counts if done else part
        return counts


def _check_draws(inputs: Tensor, seeds: Sequence[int], alpha: float, numbers: Mapping[str, int]) -> None:
    """Raise UserError for a seed too many or too few, or numbers of draws and an alpha that mean nothing."""
    if len(seeds) != len(inputs):
        raise UserError(f"smoothing: {len(inputs)} examples need as many seeds, not {len(seeds)}")
    if any(seed < 0 for seed in seeds):
        raise UserError(f"smoothing: seeds must not be negative, but one is {min(seeds)}")
    if not 0 < alpha < 1:
        raise UserError(f"smoothing: alpha must lie between 0 and 1, not {alpha}")
    for name, count in numbers.items():
        if count < 1:
            raise UserError(f"smoothing: {name} must be at least 1, not {count}")


def _lower_bound(successes: int, samples: int, alpha: float) -> float:
    """One-sided Clopper-Pearson lower bound p with `P(Binomial(samples, p) >= successes) = alpha`, rounded down."""
    if successes == 0:
        return 0.0
    return _BELOW * float(stats.beta.ppf(alpha, successes, samples - successes + 1))


def _integers(values: list[int]) -> Labels:
    return torch.tensor(values, dtype=torch.int64)
