"""Snow, frost and fog."""

import math

import numpy as np
import pytest
import torch
from pictures import SEEDS, draws, mean_look, pictures
from reference import as_numpy
from scipy import ndimage, stats

from robust_student.corruptions import weather


def test_snow_is_streaks_of_flakes_over_a_bleached_picture() -> None:
    inputs = pictures(3, 16, 12)
    corrupted = as_numpy(weather.snow(inputs, 4, SEEDS))
    white, limit = weather.WHITENING[3], stats.norm.ppf(1 - weather.FLAKES[3])
    for n, seed in enumerate(SEEDS):
        flakes = np.clip(2 * (draws((16, 12), seed, torch.randn) - limit), 0, 1)
        angle, length = math.radians(45 + 90 * draws((1,), seed)[0]), 0.12 * 12
        track = [(t * math.cos(angle), t * math.sin(angle)) for t in length * (np.arange(400) / 400 - 0.49875)]
        streaks = np.minimum(math.sqrt(length) * mean_look(flakes, track), 1)
        picture = inputs[n].numpy()
        bleached = np.maximum(picture, 0.5 + 1.5 * picture.mean(axis=0))
        expected = (1 - white) * picture + white * bleached + streaks + streaks[::-1, ::-1]
        np.testing.assert_allclose(corrupted[n], expected, atol=0.01)


def test_crystals_are_facets_with_bright_edges() -> None:
    height, width, seed = 9, 12, 5
    generator = torch.Generator().manual_seed(seed)
    expected = np.zeros((height, width))
    for share, count in zip((0.6, 0.4), weather.CRYSTALS, strict=True):
        places = torch.rand((count, 2), generator=generator).numpy() * (height / 12, width / 12)
        shades = torch.rand((count,), generator=generator).numpy()
        for row in range(height):
            for column in range(width):
                distances = [math.dist(((row + 0.5) / 12, (column + 0.5) / 12), place) for place in places]
                first, second = sorted(distances)[:2]
                edge = math.exp(-8 * (second - first) / math.sqrt(height * width / 144 / count))
                expected[row, column] += share * (0.55 * shades[np.argmin(distances)] ** 2 + 0.45 * edge)
    texture = as_numpy(weather.crystals(height, width, seed))
    np.testing.assert_allclose(texture, expected, atol=1e-4)
    assert texture.min() >= 0 and texture.max() <= 1


@pytest.mark.parametrize(("channels", "colour"), [(3, weather.ICE), (1, (1.0,)), (2, (1.0, 1.0))])
def test_frost_mixes_the_picture_with_ice_of_its_colour(channels: int, colour: tuple[float, ...]) -> None:
    inputs = pictures(channels)
    corrupted = as_numpy(weather.frost(inputs, 3, SEEDS))
    for n, seed in enumerate(SEEDS):
        ice = as_numpy(weather.crystals(12, 10, seed))
        for c in range(channels):
            expected = 0.8 * inputs[n, c].numpy() + 0.44 * colour[c] * ice
            np.testing.assert_allclose(corrupted[n, c], expected, atol=1e-6)


def test_fog_is_a_cloud_of_octaves_mixed_with_the_picture() -> None:
    inputs = pictures(2, 16, 12)
    corrupted = as_numpy(weather.fog(inputs, 2, SEEDS))
    for n, seed in enumerate(SEEDS):
        values, cloud, size = draws((9 + 25 + 81,), seed), np.zeros((16, 12)), 1.0
        for points in (3, 5, 9):
            lattice, values = values[: points**2].reshape(points, points), values[points**2 :]
            rows, columns = np.mgrid[:16, :12] * np.array([(points - 1) / 15, (points - 1) / 11])[:, None, None]
            cloud += size * ndimage.map_coordinates(lattice, [rows, columns], order=1, mode="nearest")
            size *= weather.ROUGHNESS
        cloud = (cloud - cloud.min()) / (cloud.max() - cloud.min())
        np.testing.assert_allclose(corrupted[n], (inputs[n].numpy() + 0.45 * cloud) / 1.45, atol=1e-6)
