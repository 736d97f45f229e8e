import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference import as_numpy, message_of

from robust_student.core.rng import normal_per_example, uniform_per_example
from robust_student.core.tensors import UNBOUNDED, UNIT_RANGE, InputRange
from robust_student.corruptions.snr_noise import gaussian_at_snr, impulse_at_snr, signal_power, uniform_at_snr

levels = pytest.mark.parametrize("snr_db", [20.0, 3.0, 0.0, -5.0])


@levels
def test_without_clipping_the_realised_snr_is_the_requested_one_within_sampling_error(snr_db: float) -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.rand((5, 3, 200, 200), generator=generator, dtype=torch.float64)
    noise = torch.randn(inputs.shape, generator=generator, dtype=torch.float64)
    _, realised = gaussian_at_snr(inputs, snr_db, UNBOUNDED, noise)
    # The mean square of n normal draws has a relative deviation of sqrt(2 / n).
    tolerance = 4 * 10 / math.log(10) * math.sqrt(2 / (3 * 200 * 200))
    assert np.abs(as_numpy(realised) - snr_db).max() < tolerance


@levels
def test_noise_is_the_draw_times_the_deviation_that_the_power_asks_for(snr_db: float) -> None:
    inputs = torch.tensor([[3.0, -4.0], [0.1, 0.0]], dtype=torch.float64)
    draws = torch.tensor([[1.0, -2.0], [0.5, 3.0]], dtype=torch.float64)
    noisy, _ = gaussian_at_snr(inputs, snr_db, UNBOUNDED, draws)
    expected = [
        [x + math.sqrt(sum(v * v for v in row) / 2 / 10 ** (snr_db / 10)) * n for x, n in zip(row, noise, strict=True)]
        for row, noise in zip(inputs.tolist(), draws.tolist(), strict=True)
    ]
    np.testing.assert_allclose(as_numpy(noisy), expected, rtol=1e-12)


@pytest.mark.parametrize("limits", [UNIT_RANGE, InputRange(-1.0, 0.6), UNBOUNDED])
def test_the_realised_snr_is_that_of_the_clipped_inputs(limits: InputRange) -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = limits.clip(torch.rand((4, 1, 5, 5), generator=generator))
    noisy, realised = gaussian_at_snr(inputs, -3.0, limits, torch.randn(inputs.shape, generator=generator))
    assert torch.equal(limits.clip(noisy), noisy)
    clean, change = as_numpy(inputs).reshape(4, -1), as_numpy(noisy - inputs).reshape(4, -1)
    expected = 10 * np.log10((clean**2).mean(axis=1) / (change**2).mean(axis=1))
    np.testing.assert_allclose(as_numpy(realised), expected, rtol=1e-4)


def test_clipping_leaves_less_noise_than_was_asked_for() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.rand((8, 400), generator=generator)
    noise = torch.randn(inputs.shape, generator=generator)
    _, free = gaussian_at_snr(inputs, 0.0, UNBOUNDED, noise)
    _, clipped = gaussian_at_snr(inputs, 0.0, UNIT_RANGE, noise)
    assert (clipped > free + 1).all()


def test_an_example_without_power_is_left_alone_and_has_no_snr() -> None:
    inputs = torch.stack([torch.zeros(3, 3), torch.full((3, 3), 0.5)])
    noisy, realised = gaussian_at_snr(inputs, 0.0, UNIT_RANGE, torch.ones(2, 3, 3))
    assert noisy[0].eq(0).all() and noisy[1].eq(1).all()
    assert realised.isnan().tolist() == [True, False]


@levels
@pytest.mark.parametrize("limits", [UNIT_RANGE, InputRange(-1.0, 3.0)])
def test_impulses_have_the_requested_snr_within_sampling_error(snr_db: float, limits: InputRange) -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = limits.lower + limits.width * torch.rand((3, 1, 200, 200), generator=generator, dtype=torch.float64)
    noisy, realised = impulse_at_snr(inputs, snr_db, limits, torch.rand(inputs.shape, generator=generator))
    changed = noisy != inputs
    assert set(noisy[changed].tolist()) == set(limits)
    assert float((noisy[changed] == limits.lower).double().mean()) == pytest.approx(0.5, abs=0.1)
    power, worst = inputs.square().mean(), ((inputs - limits.lower) ** 2 + (inputs - limits.upper) ** 2).mean() / 2
    reachable = max(snr_db, 10 * math.log10(power / worst))
    # The sum of k squared changes has a relative deviation of about sqrt(1.8 / k).
    k = min(1.0, float(power / worst) / 10 ** (snr_db / 10)) * 200 * 200
    assert as_numpy(realised) == pytest.approx([reachable] * 3, abs=4 * 10 / math.log(10) * math.sqrt(2 / k))


def test_impulses_replace_the_elements_with_the_smallest_draws() -> None:
    inputs = torch.tensor([[0.5, 0.5, 0.5, 0.5], [0.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    draws = torch.tensor([[0.19, 0.41, 0.21, 0.39], [0.0, 0.1, 0.2, 0.3]], dtype=torch.float64)
    # P = 1/4 and the mean squared change of an impulse is 1/4: at 10 log10(2.5) dB a share of 0.4 is replaced.
    noisy, realised = impulse_at_snr(inputs, 10 * math.log10(2.5), UNIT_RANGE, draws)
    assert noisy.tolist() == [[1.0, 0.5, 0.0, 0.0], [0.0] * 4]
    assert realised.tolist() == pytest.approx([10 * math.log10(4 / 3), math.nan], nan_ok=True)


def test_impulses_need_a_range() -> None:
    assert "impulses need" in message_of(lambda: impulse_at_snr(torch.ones(1, 2), 0.0, UNBOUNDED, torch.rand(1, 2)))


@levels
def test_uniform_noise_has_the_requested_snr_and_is_bounded(snr_db: float) -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.rand((5, 3, 100, 100), generator=generator, dtype=torch.float64)
    draws = torch.rand(inputs.shape, generator=generator, dtype=torch.float64)
    noisy, realised = uniform_at_snr(inputs, snr_db, UNBOUNDED, draws)
    assert np.abs(as_numpy(realised) - snr_db).max() < 0.15
    for clean, corrupted in zip(inputs, noisy, strict=True):
        sigma = math.sqrt(float(clean.square().mean()) / 10 ** (snr_db / 10))
        assert float((corrupted - clean).abs().max()) == pytest.approx(math.sqrt(3) * sigma, rel=1e-3)


@given(st.lists(st.floats(-3, 3, allow_subnormal=False), min_size=1, max_size=6))
def test_signal_power_is_the_mean_square(values: list[float]) -> None:
    power = signal_power(torch.tensor([values], dtype=torch.float64))
    assert float(power) == pytest.approx(sum(v * v for v in values) / len(values))


@pytest.mark.parametrize("draw", [normal_per_example, uniform_per_example])
def test_an_examples_noise_does_not_depend_on_the_batch_it_is_in(
    draw: Callable[[Sequence[int], Sequence[int]], torch.Tensor],
) -> None:
    seeds = [5, 2**62, 0, 5]
    in_batch = draw((2, 3), seeds)
    alone = torch.cat([draw((2, 3), [seed]) for seed in seeds])
    assert in_batch.shape == (4, 2, 3) and torch.equal(in_batch, alone)
    assert torch.equal(in_batch[0], in_batch[3]) and not torch.equal(in_batch[0], in_batch[1])


def test_drawing_noise_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    normal_per_example((2, 3), [1, 2])
    assert torch.equal(torch.get_rng_state(), before)


def test_noise_draws_are_standard_normal_and_uncorrelated_between_neighbouring_seeds() -> None:
    draws = as_numpy(normal_per_example((4000,), list(range(20))))
    assert abs(draws.mean()) < 4 / math.sqrt(draws.size) and abs(draws.std() - 1) < 4 / math.sqrt(2 * draws.size)
    correlations = np.corrcoef(draws) - np.eye(20)
    assert np.abs(correlations).max() < 5 / math.sqrt(4000)
