"""Noise of the corruptions against its formulas."""

import math

import numpy as np
import pytest
import torch
from pictures import SEEDS, draws, pictures
from reference import as_numpy

from robust_student.corruptions import noise as noise_module
from robust_student.corruptions.kinds import SEVERITIES


def test_gaussian_and_uniform_noise_have_the_same_deviation() -> None:
    inputs = torch.full((1, 1, 200, 200), 0.5, dtype=torch.float64)
    for severity, sigma in zip(SEVERITIES, noise_module.DEVIATIONS, strict=True):
        for noise in (noise_module.gaussian_noise, noise_module.uniform_noise):
            added = as_numpy(noise(inputs, severity, [1]) - inputs)
            assert added.std() == pytest.approx(sigma, rel=0.03) and abs(added.mean()) < 4 * sigma / 200
    flat = as_numpy(noise_module.uniform_noise(inputs, 5, [1]) - inputs)
    assert np.abs(flat).max() <= math.sqrt(3) * noise_module.DEVIATIONS[4]


def test_gaussian_noise_adds_the_draws_of_the_seed() -> None:
    inputs = pictures()
    corrupted = noise_module.gaussian_noise(inputs, 2, SEEDS)
    expected = [x + 0.06 * draws((3, 12, 10), seed, torch.randn) for x, seed in zip(inputs.numpy(), SEEDS, strict=True)]
    np.testing.assert_allclose(as_numpy(corrupted), expected, atol=1e-7)


def test_shot_noise_counts_photons() -> None:
    inputs = torch.stack([torch.full((1, 200, 200), grey) for grey in (0.0, 0.2, 0.9)])
    for severity, photons in zip(SEVERITIES, noise_module.PHOTONS, strict=True):
        counts = as_numpy(photons * noise_module.shot_noise(inputs, severity, SEEDS))
        np.testing.assert_allclose(counts, counts.round(), atol=1e-3)
        for n, grey in enumerate((0.0, 0.2, 0.9)):
            assert counts[n].mean() == pytest.approx(photons * grey, rel=0.02)
            assert counts[n].var() == pytest.approx(photons * grey, rel=0.04)


def test_impulse_noise_replaces_by_black_and_white() -> None:
    inputs = 0.2 + 0.6 * pictures()
    corrupted = as_numpy(noise_module.impulse_noise(inputs, 5, SEEDS))
    for n, seed in enumerate(SEEDS):
        for place, u in np.ndenumerate(draws((3, 12, 10), seed)):
            expected = 1.0 if u < 0.06 else 0.0 if u < 0.12 else float(inputs[n][place])
            assert corrupted[n][place] == expected
