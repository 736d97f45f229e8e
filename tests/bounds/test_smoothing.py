import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pytest
import torch
from reference import (
    Array,
    ReferenceNorm,
    affine,
    as_numpy,
    assert_rows,
    assert_state,
    make_batch,
    message_of,
    norm_for,
    seeded,
    smooth_student,
    state_of,
)
from scipy import optimize, special, stats
from torch import Tensor, nn

from robust_student.bounds.smoothing import ABSTAIN, SmoothedRadius, certified_smoothing_radius
from robust_student.core.norms import Norm
from robust_student.core.tensors import UNBOUNDED, Shape

SHAPE: Shape = (2, 3)
L2 = Norm.named("l2")
SELECTION, ESTIMATION = 0, 1
RARE = 1e-7
"""Chance with which a statistical test would fail for another choice of its seeds."""
with_and_without_scale = pytest.mark.parametrize("scaled", [False, True], ids=["plain", "scaled"])


class Draws(NamedTuple):
    """How much is drawn, and how sure the bound is."""

    sigma: float
    samples: int
    selection_samples: int
    alpha: float


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


def certify(
    network: nn.Module,
    inputs: Tensor,
    draws: Draws,
    seeds: Sequence[int] | None = None,
    *,
    norm: Norm = L2,
    chunk: int = 1000,
) -> SmoothedRadius:
    return certified_smoothing_radius(
        network,
        inputs,
        norm=norm,
        sigma=draws.sigma,
        samples=draws.samples,
        selection_samples=draws.selection_samples,
        alpha=draws.alpha,
        seeds=range(len(inputs)) if seeds is None else seeds,
        chunk=chunk,
    )


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


class Halfspaces(NamedTuple):
    """A binary affine classifier, inputs, and what is true of its smoothed version there."""

    network: nn.Module
    norm: Norm
    inputs: Tensor
    decision: list[int]
    radius: Array


def halfspaces(sizes: Array, scaled: bool, device: torch.device) -> Halfspaces:
    """One input per wanted radius |w.x + b| / ||w||*, on either side of the boundary in turns."""
    norm = norm_for("l2", SHAPE, scaled, device)
    normal, bias = torch.linspace(-1.0, 1.5, 6, dtype=torch.float64), 0.3
    network = affine(torch.stack([normal, torch.zeros(6)]), torch.tensor([bias, 0.0])).double().to(device)
    slope = ReferenceNorm(norm, SHAPE).dual_size(normal.numpy())
    signs = np.where(np.arange(len(sizes)) % 2 == 0, 1.0, -1.0)
    along = (signs * sizes * slope - float(torch.tensor(bias))) / float(normal.square().sum())
    inputs = (torch.tensor(along)[:, None] * normal).view(-1, *SHAPE)
    return Halfspaces(network, norm, inputs.to(device), (signs < 0).astype(int).tolist(), sizes)


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


# Noise and passes -----------------------------------------------------------------------------------------------------


def test_results_do_not_depend_on_batch_order_or_chunk(device: torch.device) -> None:
    student, inputs = smooth_student(SHAPE, 3, device), make_batch(SHAPE, device, examples=8).inputs
    draws, seeds = Draws(1.0, 150, 20, 0.01), [3, 2**40, 0, 9, 9, 1, 7, 2**70]
    in_batch = certify(student, inputs, draws, seeds)
    assert len(set(in_batch.successes.tolist())) > 4

    order = [5, 2, 7, 0, 1, 6, 4, 3]
    shuffled = [seeds[i] for i in order]
    for whole, part in zip(in_batch, certify(student, inputs[order], draws, shuffled), strict=True):
        assert torch.equal(whole[order], part)

    for i, seed in enumerate(seeds):
        for whole, part in zip(in_batch, certify(student, inputs[i : i + 1], draws, [seed]), strict=True):
            assert torch.equal(whole[i : i + 1], part)

    for chunk in (1, 7, 149, 10_000):
        again = certify(student, inputs, draws, seeds, chunk=chunk)
        assert all(torch.equal(a, b) for a, b in zip(in_batch, again, strict=True))


def test_seeds_that_differ_in_high_bits_only_draw_different_noise(device: torch.device) -> None:
    case = halfspaces(np.full(4, 0.1), False, device)
    certificate = certify(
        case.network, case.inputs[:1].expand(4, *SHAPE), Draws(1.0, 2000, 9, 0.01), [5, 5 + 2**32, 6, 5]
    )
    first, high, next_one, same = certificate.successes.tolist()
    assert len({first, high, next_one}) == 3 and first == same


class _Recorder(nn.Module):
    """Remembers the inputs and the mode of every pass."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []
        self.modes: list[bool] = []

    def forward(self, inputs: Tensor) -> Tensor:
        self.seen.append(inputs)
        self.modes.append(self.training or torch.is_grad_enabled())
        return inputs.flatten(1)[:, :2]


def test_every_draw_is_made_in_passes_of_bounded_size(device: torch.device) -> None:
    network, inputs = _Recorder(), torch.zeros(2, *SHAPE, device=device)
    certify(network, inputs, Draws(0.5, 90, 50, 0.1), chunk=40)
    assert [len(part) for part in network.seen] == 2 * [40, 10, 40, 40, 10]
    assert network.training and not any(network.modes)
    drawn = torch.cat(network.seen).flatten().tolist()
    assert len(set(drawn)) > 0.99 * len(drawn)


@with_and_without_scale
def test_noise_has_the_stated_spread_and_is_not_clipped(scaled: bool, device: torch.device) -> None:
    network, norm = _Recorder(), norm_for("l2", SHAPE, scaled, device)
    inputs = make_batch(SHAPE, device, examples=1).inputs
    certify(network, inputs, Draws(0.5, 20_000, 1, 0.1), norm=norm)
    noise = as_numpy(torch.cat(network.seen) - inputs).reshape(-1, 6)
    standard = noise / (0.5 * ReferenceNorm(norm, SHAPE).scale)
    count = len(standard)
    assert np.abs(standard.mean(axis=0)).max() < 5 / math.sqrt(count)
    assert np.abs(standard.var(axis=0) - 1).max() < 5 * math.sqrt(2 / count)
    assert np.abs(np.corrcoef(standard.T) - np.eye(6)).max() < 5 / math.sqrt(count)
    assert stats.kstest(standard.ravel(), "norm").pvalue > RARE


def test_the_network_is_left_as_it_was_and_gives_its_evaluation_mode_answers(
    conv: nn.Module, device: torch.device
) -> None:
    inputs, before = make_batch((2, 4, 4), device).inputs, state_of(conv)
    numbers_before = torch.get_rng_state()
    trained = certify(conv, inputs, Draws(0.5, 100, 10, 0.01))
    assert conv.training and torch.equal(torch.get_rng_state(), numbers_before)
    assert_state(conv, before)
    evaluated = certify(conv.eval(), inputs, Draws(0.5, 100, 10, 0.01))
    assert all(torch.equal(a, b) for a, b in zip(trained, evaluated, strict=True))


def test_float32_works_on_every_device_and_results_come_back_to_the_cpu(any_device: torch.device) -> None:
    network = seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(6, 3)), torch.device("cpu")).float().to(any_device)
    inputs = torch.rand((4, *SHAPE), generator=torch.Generator().manual_seed(0)).to(any_device)
    norm = Norm.named("l2", torch.linspace(0.5, 2.0, 3, dtype=torch.float64))
    certificate = certify(network, inputs, Draws(0.3, 50, 5, 0.1), norm=norm)
    assert [t.dtype for t in certificate] == [torch.int64, torch.float64, torch.int64]
    assert all(t.device.type == "cpu" and t.shape == (4,) for t in certificate)


def test_no_examples_give_empty_results(device: torch.device) -> None:
    network, inputs = smooth_student(SHAPE, 3, device), torch.zeros(0, *SHAPE, device=device)
    assert [len(t) for t in certify(network, inputs, Draws(1.0, 5, 5, 0.1))] == [0, 0, 0]


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ({"norm": Norm.named("linf")}, "certifies l2 only, not linf"),
        ({"norm": Norm.named("l1")}, "certifies l2 only, not l1"),
        ({"sigma": 0.0}, "sigma must be positive and finite, not 0.0"),
        ({"sigma": -1.0}, "sigma must be positive"),
        ({"sigma": math.inf}, "sigma must be positive and finite"),
        ({"sigma": math.nan}, "sigma must be positive"),
        ({"alpha": 0.0}, "alpha must lie between 0 and 1, not 0.0"),
        ({"alpha": 1.0}, "alpha must lie"),
        ({"alpha": math.nan}, "alpha must lie"),
        ({"samples": 0}, "samples must be at least 1, not 0"),
        ({"selection_samples": 0}, "selection_samples must be at least 1, not 0"),
        ({"chunk": 0}, "chunk must be at least 1, not 0"),
        ({"seeds": [1]}, "2 examples need as many seeds, not 1"),
        ({"seeds": [1, 2, 3]}, "2 examples need as many seeds, not 3"),
        ({"seeds": [1, -2]}, "seeds must not be negative, but one is -2"),
    ],
)
def test_bad_numbers_are_refused(wrong: dict[str, object], complaint: str) -> None:
    network, inputs = affine(torch.zeros(2, 6)), torch.zeros(2, *SHAPE)
    arguments: dict[str, object] = {"norm": L2, "sigma": 0.5, "samples": 5, "alpha": 0.1, "seeds": [0, 1]} | wrong
    assert complaint in message_of(lambda: certified_smoothing_radius(network, inputs, **arguments))  # type: ignore[arg-type]
