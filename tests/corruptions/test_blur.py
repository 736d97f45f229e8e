"""Blurs against slow means."""

import math

import numpy as np
import pytest
from pictures import SEEDS, draws, gaussian_oracle, look, mean_look, pictures
from reference import as_numpy

from robust_student.corruptions import blur


@pytest.mark.parametrize("severity", [1, 3, 5])
def test_gaussian_blur_is_the_integral_over_a_normal_cloud(severity: int) -> None:
    inputs = pictures(1, 40, 36)
    corrupted = as_numpy(blur.gaussian_blur(inputs, severity, SEEDS))
    sigma = 36 * blur.GAUSSIAN[severity - 1]
    for n in range(3):
        np.testing.assert_allclose(corrupted[n, 0], gaussian_oracle(inputs[n, 0].numpy(), sigma), atol=0.003)


@pytest.mark.parametrize("severity", [1, 5])
def test_defocus_blur_is_the_mean_over_a_disc(severity: int) -> None:
    inputs = pictures(2, 24, 20)
    radius = 20 * blur.DISC[severity - 1]
    rings = [
        (radius * math.sqrt((i + 0.5) / 40) * math.cos(a), radius * math.sqrt((i + 0.5) / 40) * math.sin(a))
        for i in range(40)
        for a in np.linspace(0, 2 * math.pi, 24, endpoint=False)
    ]
    corrupted = as_numpy(blur.defocus_blur(inputs, severity, SEEDS))
    np.testing.assert_allclose(corrupted[1, 1], mean_look(inputs[1, 1].numpy(), rings), atol=0.005)


@pytest.mark.parametrize("severity", [1, 5])
def test_motion_blur_is_the_mean_over_a_track_at_the_drawn_angle(severity: int) -> None:
    inputs = pictures(2, 24, 20)
    corrupted = as_numpy(blur.motion_blur(inputs, severity, SEEDS))
    length = 20 * blur.TRACK[severity - 1]
    for n, seed in enumerate(SEEDS):
        angle = math.radians(90 * (draws((1,), seed)[0] - 0.5))
        track = [(t * math.cos(angle), t * math.sin(angle)) for t in length * (np.arange(400) / 400 - 0.49875)]
        np.testing.assert_allclose(corrupted[n, 1], mean_look(inputs[n, 1].numpy(), track), atol=0.004)


@pytest.mark.parametrize("severity", [1, 5])
def test_behind_glass_every_pixel_looks_elsewhere(severity: int) -> None:
    inputs = pictures(2, 24, 20)
    corrupted = as_numpy(blur.glass_blur(inputs, severity, SEEDS))
    reach = 20 * blur.SCATTER[severity - 1]
    for n, seed in enumerate(SEEDS):
        right, down = reach * (2 * draws((24, 20, 2), seed) - 1).transpose(2, 0, 1)
        scattered = look(inputs[n, 1].numpy(), right, down, "reflect")
        np.testing.assert_allclose(corrupted[n, 1], gaussian_oracle(scattered, reach / 4), atol=0.003)


@pytest.mark.parametrize("severity", [1, 5])
def test_zoom_blur_is_the_mean_of_magnified_copies(severity: int) -> None:
    inputs = pictures(2, 24, 20)
    corrupted = as_numpy(blur.zoom_blur(inputs, severity, SEEDS))
    down, right = np.mgrid[:24, :20] - np.array([11.5, 9.5])[:, None, None]
    copies = [
        look(inputs[1, 1].numpy(), right / zoom - right, down / zoom - down, "nearest")
        for zoom in np.linspace(1, 1 + blur.ZOOM[severity - 1], 9)
    ]
    np.testing.assert_allclose(corrupted[1, 1], np.mean(copies, axis=0), atol=1e-6)
