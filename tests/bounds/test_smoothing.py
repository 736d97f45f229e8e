"""The radius of a smoothed classifier is that of the paper's algorithms, and below the true one."""

import math

import numpy as np
import pytest
import torch
from reference import affine, as_numpy, assert_rows, make_batch, norm_for, smooth_student
from reference_norm import ReferenceNorm
from scipy import optimize, special, stats
from smoothing_draws import L2, RARE, SHAPE, Draws, certify, halfspaces, with_and_without_scale
from torch import Tensor, nn

from robust_student.bounds.smoothing import ABSTAIN
from robust_student.core.norms import Norm
from robust_student.core.tensors import UNBOUNDED

SELECTION, ESTIMATION = 0, 1
every_number_of_draws = pytest.mark.parametrize(
    "draws", [Draws(0.5, 200, 30, 0.001), Draws(2.0, 200, 30, 0.001), Draws(2.0, 61, 1, 0.2), Draws(0.1, 1, 1, 0.4)]
)


# The algorithms of the paper in the open: one example, one draw, one number at a time ---------------------------------


def plain_votes(
    network: nn.Module, example: Tensor, norm: Norm, sigma: float, seed: int, stream: int, samples: int
) -> list[int]:
    """The class of every noisy copy that gets one: NaN logits are no vote."""
    generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(stream,))))
    shape, scale = tuple(example.shape), ReferenceNorm(norm, tuple(example.shape)).scale
    votes = []
    for _ in range(samples):
        noise = [float(generator.standard_normal(dtype=np.float32)) for _ in range(math.prod(shape))]
        moved = [x + sigma * s * n for x, s, n in zip(as_numpy(example).ravel(), scale, noise, strict=True)]
        logits = network(torch.tensor(moved, dtype=example.dtype, device=example.device).view(1, *shape))[0].tolist()
        if not any(map(math.isnan, logits)):
            votes.append(logits.index(max(logits)))
    return votes


def plain_lower_bound(successes: int, samples: int, alpha: float) -> float:
    """The probability at which that many successes or more are just alpha likely, by root search."""
    if successes == 0:
        return 0.0
    if successes == samples:
        return float(alpha ** (1 / samples))
    return float(
        optimize.brentq(lambda p: stats.binom.sf(successes - 1, samples, p) - alpha, 0.0, 1.0, xtol=1e-16, rtol=1e-15)
    )


def plain_certificate(
    network: nn.Module, example: Tensor, norm: Norm, draws: Draws, seed: int
) -> tuple[int, float, int]:
    """Prediction, radius and successes of one example."""
    selection = plain_votes(network, example, norm, draws.sigma, seed, SELECTION, draws.selection_samples)
    winner = max(sorted(set(selection)), key=selection.count, default=0)
    votes = plain_votes(network, example, norm, draws.sigma, seed, ESTIMATION, draws.samples)
    successes = sum(vote == winner for vote in votes)
    p = plain_lower_bound(successes, draws.samples, draws.alpha)
    if p <= 0.5:
        return ABSTAIN, 0.0, successes
    return winner, draws.sigma * float(stats.norm.ppf(p)), successes


@every_number_of_draws
@with_and_without_scale
def test_the_certificate_is_that_of_the_loop(draws: Draws, scaled: bool, device: torch.device) -> None:
    student, norm = smooth_student(SHAPE, 3, device), norm_for("l2", SHAPE, scaled, device)
    inputs, seeds = make_batch(SHAPE, device, input_range=UNBOUNDED, examples=12).inputs, list(range(40, 52))
    expected = [plain_certificate(student, x, norm, draws, seed) for x, seed in zip(inputs, seeds, strict=True)]
    predictions, radii, successes = zip(*expected, strict=True)
    certificate = certify(student, inputs, draws, seeds, norm=norm)
    assert certificate.prediction.tolist() == list(predictions)
    assert certificate.successes.tolist() == list(successes)
    assert_rows(certificate.radius, radii, 1e-12)
    assert ABSTAIN in predictions and (draws.samples == 1 or len(set(predictions)) > 2)


class _Silent(nn.Module):
    """NaN logits where the first element of the input exceeds a number, else those of another network."""

    def __init__(self, inner: nn.Module, above: float) -> None:
        super().__init__()
        self.inner, self.above = inner, above

    def forward(self, inputs: Tensor) -> Tensor:
        return self.inner(inputs).masked_fill((inputs[:, 0, 0] > self.above)[:, None], math.nan)


@pytest.mark.parametrize("above", [-math.inf, -0.5, 0.5])
def test_nan_logits_vote_for_no_class(above: float, device: torch.device) -> None:
    network, draws = _Silent(smooth_student(SHAPE, 3, device), above), Draws(0.5, 200, 30, 0.001)
    inputs, seeds = make_batch(SHAPE, device, input_range=UNBOUNDED, examples=12).inputs, list(range(40, 52))
    expected = [plain_certificate(network, x, L2, draws, seed) for x, seed in zip(inputs, seeds, strict=True)]
    certificate = certify(network, inputs, draws, seeds)
    assert certificate.successes.tolist() == [successes for _, _, successes in expected]
    assert certificate.prediction.tolist() == [prediction for prediction, _, _ in expected]
    assert above > -math.inf or certificate.prediction.tolist() == [ABSTAIN] * len(inputs)


@pytest.mark.parametrize(("successes", "samples"), [(700, 1000), (990, 1000), (999, 1000), (1000, 1000), (17, 18)])
def test_the_radius_is_just_below_the_one_of_the_exact_binomial_interval(
    successes: int, samples: int, device: torch.device
) -> None:
    certificate = certify(_Scripted(1, successes), torch.zeros(1, 1, device=device), Draws(0.5, samples, 1, 0.01))
    interval = stats.binomtest(successes, samples, alternative="greater").proportion_ci(0.99, method="exact")
    assert certificate.successes.tolist() == [successes]
    assert float(certificate.radius) == pytest.approx(0.5 * stats.norm.ppf(interval.low), rel=1e-8)
    assert float(certificate.radius) < 0.5 * stats.norm.ppf(plain_lower_bound(successes, samples, 0.01))


class _Scripted(nn.Module):
    """Votes for class 0 until so many inputs have been seen, then for class 1."""

    def __init__(self, *lengths: int) -> None:
        super().__init__()
        self.left = sum(lengths)

    def forward(self, inputs: Tensor) -> Tensor:
        first = torch.arange(len(inputs), device=inputs.device) < self.left
        self.left -= len(inputs)
        return torch.stack([first, ~first], dim=1).float()


# Classifiers whose smoothed radius is known ---------------------------------------------------------------------------


@with_and_without_scale
def test_the_radius_of_an_affine_classifier_comes_near_its_distance_from_below(
    scaled: bool, device: torch.device
) -> None:
    case = halfspaces(np.array([0.05, 0.1, 0.2, 0.4, 0.6, 0.8]), scaled, device)
    draws = Draws(0.4, 100_000, 10_000, RARE)
    certificate = certify(case.network, case.inputs, draws, norm=case.norm)
    assert certificate.prediction.tolist() == case.decision
    probability = special.ndtr(case.radius / draws.sigma)
    unlucky = stats.binom.ppf(RARE, draws.samples, probability)
    floor = draws.sigma * special.ndtri([plain_lower_bound(int(k), draws.samples, RARE) for k in unlucky])
    assert (floor > case.radius - 0.04).all()
    assert (certificate.radius.numpy() >= floor).all() and (certificate.radius.numpy() <= case.radius).all()


@with_and_without_scale
def test_the_radius_exceeds_the_true_one_as_often_as_the_binomial_distribution_says(
    scaled: bool, device: torch.device
) -> None:
    draws, repetitions = Draws(0.7, 60, 9, 0.1), 2000
    case = halfspaces(np.tile([0.05, 0.2, 0.5, 0.7, 0.9], repetitions // 5), scaled, device)
    certificate = certify(case.network, case.inputs, draws, norm=case.norm)
    prediction, right = certificate.prediction.numpy(), np.array(case.decision)
    too_much = (prediction != ABSTAIN) & ((prediction != right) | (certificate.radius.numpy() > case.radius))

    bounds = np.array([plain_lower_bound(k, draws.samples, draws.alpha) for k in range(draws.samples + 1)])
    expected = np.zeros(repetitions)
    for i, p in enumerate(special.ndtr(case.radius / draws.sigma)):
        selected = stats.binom.sf(draws.selection_samples // 2, draws.selection_samples, p)
        weights = stats.binom.pmf(np.arange(draws.samples + 1), draws.samples, p)
        other = weights[::-1]
        expected[i] = selected * weights[bounds > p].sum() + (1 - selected) * other[bounds > 0.5].sum()
    assert (expected <= draws.alpha).all() and expected.mean() > draws.alpha / 4
    spread = math.sqrt((expected * (1 - expected)).sum())
    assert abs(too_much.sum() - expected.sum()) < 5 * spread
    assert too_much.sum() <= stats.binom.isf(RARE, repetitions, draws.alpha)


class _Interval(nn.Module):
    """Class 0 between -1 and 1, class 1 outside: the smoothed classifier's boundary is not the network's."""

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.cat([1 - inputs.abs(), torch.zeros_like(inputs)], dim=1)


@pytest.mark.parametrize("sigma", [0.3, 0.8, 2.0])
def test_the_radius_belongs_to_the_smoothed_classifier_not_to_the_network(sigma: float, device: torch.device) -> None:
    def inside(x: float) -> float:
        return float(special.ndtr((1 - x) / sigma) - special.ndtr((-1 - x) / sigma))

    boundary = optimize.brentq(lambda x: inside(x) - 0.5, 0.0, 9.0) if inside(0.0) > 0.5 else -math.inf
    points = np.linspace(-3, 3, 31)
    draws = Draws(sigma, 2000, 100, RARE)
    certificate = certify(_Interval(), torch.tensor(points, device=device)[:, None], draws)
    for x, prediction, radius in zip(points, certificate.prediction.tolist(), certificate.radius.tolist(), strict=True):
        assert prediction in (ABSTAIN, 0 if abs(x) < boundary else 1)
        assert radius <= abs(abs(x) - boundary)
    assert set(certificate.prediction.tolist()) == ({ABSTAIN, 0, 1} if boundary > 0 else {1})
    beyond_the_network = certificate.radius.numpy() > np.abs(np.abs(points) - 1)
    assert beyond_the_network.any() == (sigma == 2.0)


@pytest.mark.parametrize("alpha", [0.001, 0.3])
def test_no_radius_exceeds_the_one_of_unanimous_votes(alpha: float, device: torch.device) -> None:
    draws, inputs = Draws(0.25, 137, 5, alpha), torch.zeros(3, *SHAPE, device=device)
    sure = affine(torch.zeros(4, 6), torch.tensor([0.0, 0.0, 1.0, 0.0])).to(device)
    limit = draws.sigma * stats.norm.ppf(alpha ** (1 / draws.samples))
    certificate = certify(sure, inputs, draws)
    assert certificate.prediction.tolist() == [2] * 3 and certificate.successes.tolist() == [draws.samples] * 3
    assert_rows(certificate.radius, [limit] * 3, 1e-12)
    assert certificate.radius.max() <= limit


def test_on_the_boundary_it_abstains(device: torch.device) -> None:
    case = halfspaces(np.zeros(300), False, device)
    draws = Draws(0.5, 200, 20, 0.001)
    allowed = stats.binom.isf(RARE, 300, draws.alpha)
    certificate = certify(case.network, case.inputs, draws)
    assert int((certificate.prediction != ABSTAIN).sum()) <= allowed
    assert torch.equal(certificate.prediction == ABSTAIN, certificate.radius == 0)


def test_the_only_class_there_is_is_certain(device: torch.device) -> None:
    network, inputs = affine(torch.ones(1, 6)).to(device), torch.zeros(2, *SHAPE, device=device)
    assert certify(network, inputs, Draws(1.0, 50, 1, 0.01)).prediction.tolist() == [0, 0]
