"""Every kind of corruption: what all have in common, and each against a slow oracle."""

import colorsys
import io
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image
from reference import Array, as_numpy, message_of
from scipy import integrate, ndimage, stats

from robust_student.core.tensors import UNBOUNDED, UNIT_RANGE, InputRange
from robust_student.corruptions import blur, digital, weather
from robust_student.corruptions import noise as noise_module
from robust_student.corruptions.kinds import CORRUPTIONS, IMAGENET_C, SEVERITIES, corrupt
from robust_student.corruptions.resampling import Images
from robust_student.data.readers.load import load_data

SEEDS = [3, 2**62, 11]
DETERMINISTIC = {"defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression", "gaussian_blur"}
KEEPS_CONSTANTS = {
    *("defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "gaussian_blur", "contrast"),
    *("elastic_transform", "pixelate", "rotate", "shift"),
}
kinds = pytest.mark.parametrize("kind", list(CORRUPTIONS))


def pictures(channels: int = 3, height: int = 12, width: int = 10, dtype: torch.dtype = torch.float64) -> Images:
    return torch.rand((3, channels, height, width), generator=torch.Generator().manual_seed(0), dtype=dtype)


def draws(shape: tuple[int, ...], seed: int, kind: Callable[..., torch.Tensor] = torch.rand) -> Array:
    return as_numpy(kind(shape, generator=torch.Generator().manual_seed(seed)))


def look(image: Array, right: Array, down: Array, mode: str) -> Array:
    """A picture `(height, width)` interpolated at every pixel plus its offset."""
    rows, columns = np.mgrid[: image.shape[0], : image.shape[1]]
    return ndimage.map_coordinates(image, [rows + down, columns + right], order=1, mode=mode)


def mean_look(image: Array, points: list[tuple[float, float]]) -> Array:
    zero = np.zeros(image.shape)
    return np.mean([look(image, zero + right, zero + down, "mirror") for right, down in points], axis=0)


def gaussian_oracle(image: Array, sigma: float) -> Array:
    """Weights by quadrature of the normal density times the hat of linear interpolation."""
    reach = math.ceil(3 * sigma)
    weights = [
        integrate.quad(lambda t, k=k: stats.norm.pdf(t, scale=sigma) * max(0.0, 1 - abs(t - k)), k - 1, k + 1)[0]
        for k in range(-reach, reach + 1)
    ]
    kernel = np.array(weights) / sum(weights)
    return ndimage.correlate1d(ndimage.correlate1d(image, kernel, 0, mode="mirror"), kernel, 1, mode="mirror")


# What all kinds have in common ----------------------------------------------------------------------------------------


def test_there_are_the_fifteen_of_imagenet_c_and_four_of_our_own() -> None:
    assert len(IMAGENET_C) == 15 and len(CORRUPTIONS) == 19


@kinds
@pytest.mark.parametrize(
    ("channels", "height", "width", "limits", "dtype"),
    [
        (1, 8, 8, UNIT_RANGE, torch.float32),
        (3, 17, 9, InputRange(-1.0, 3.0), torch.float32),
        (5, 8, 20, InputRange(0.0, 255.0), torch.float64),
        (3, 64, 48, UNIT_RANGE, torch.float32),
    ],
)
def test_images_keep_shape_dtype_and_range(
    kind: str, channels: int, height: int, width: int, limits: InputRange, dtype: torch.dtype
) -> None:
    inputs = limits.lower + limits.width * pictures(channels, height, width, dtype)
    before = inputs.clone()
    for severity in SEVERITIES:
        found = corrupt(kind, inputs, severity, SEEDS, limits)
        assert found.shape == inputs.shape and found.dtype == dtype and found.isfinite().all()
        assert torch.equal(limits.clip(found), found) and not torch.equal(found, inputs)
    assert torch.equal(inputs, before)


@kinds
def test_the_range_changes_the_unit_and_nothing_else(kind: str) -> None:
    limits, inputs = InputRange(-2.0, 6.0), pictures()
    found = corrupt(kind, limits.lower + limits.width * inputs, 3, SEEDS, limits)
    expected = corrupt(kind, inputs, 3, SEEDS, UNIT_RANGE)
    np.testing.assert_allclose(as_numpy((found - limits.lower) / limits.width), as_numpy(expected), atol=1e-9)


@kinds
def test_severity_strictly_increases_the_change(kind: str) -> None:
    digits = load_data("digits").test.floats(slice(0, 200))
    found = [corrupt(kind, digits, severity, list(range(200)), UNIT_RANGE) for severity in SEVERITIES]
    change = [float((images - digits).square().mean() / digits.square().mean()) for images in found]
    assert change[0] > 0.003 and change[-1] < 0.6
    assert all(1.1 * low < high for low, high in zip(change, change[1:], strict=False)), change


@kinds
def test_an_image_does_not_depend_on_its_batch(kind: str) -> None:
    inputs = pictures(dtype=torch.float32)
    together = corrupt(kind, inputs, 4, SEEDS, UNIT_RANGE)
    alone = torch.cat([corrupt(kind, inputs[n : n + 1], 4, [SEEDS[n]], UNIT_RANGE) for n in (2, 0, 1)])[[1, 2, 0]]
    np.testing.assert_allclose(as_numpy(together), as_numpy(alone), atol=1e-6)
    assert torch.equal(together, corrupt(kind, inputs, 4, SEEDS, UNIT_RANGE))


@kinds
def test_random_kinds_depend_on_the_seed_and_only_they(kind: str) -> None:
    found = corrupt(kind, pictures()[:1].expand(8, -1, -1, -1), 5, list(range(8)), UNIT_RANGE)
    assert all(torch.allclose(found[0], other, atol=1e-12) for other in found[1:]) is (kind in DETERMINISTIC)


@kinds
def test_the_global_generator_is_left_alone(kind: str) -> None:
    before = torch.get_rng_state()
    corrupt(kind, pictures(), 2, SEEDS, UNIT_RANGE)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("kind", sorted(KEEPS_CONSTANTS))
@pytest.mark.parametrize("grey", [0.0, 0.3, 1.0])
def test_an_image_of_one_colour_is_left_as_it_is(kind: str, grey: float) -> None:
    inputs = torch.full((2, 3, 9, 11), grey, dtype=torch.float64)
    for severity in SEVERITIES:
        found = corrupt(kind, inputs, severity, [1, 2], UNIT_RANGE)
        np.testing.assert_allclose(as_numpy(found), grey, atol=1e-9)


def test_different_kinds_use_different_draws() -> None:
    grey = torch.full((1, 1, 40, 40), 0.5, dtype=torch.float64)
    names = ("gaussian_noise", "shot_noise", "uniform_noise")
    noise = [as_numpy(corrupt(kind, grey, 1, [5], UNIT_RANGE) - grey).ravel() for kind in names]
    assert np.abs(np.corrcoef(noise) - np.eye(3)).max() < 5 / 40


def test_what_cannot_be_corrupted_is_refused_with_the_reason() -> None:
    inputs = pictures()
    assert "did you mean 'snow'" in message_of(lambda: corrupt("snoww", inputs, 1, SEEDS, UNIT_RANGE))
    assert "severity 6" in message_of(lambda: corrupt("snow", inputs, 6, SEEDS, UNIT_RANGE))
    assert "no range" in message_of(lambda: corrupt("snow", inputs, 1, SEEDS, UNBOUNDED))
    assert "not images" in message_of(lambda: corrupt("snow", inputs[:, :, :7], 1, SEEDS, UNIT_RANGE))
    assert "not images" in message_of(lambda: corrupt("snow", inputs.flatten(1), 1, SEEDS, UNIT_RANGE))
    with pytest.raises(ValueError, match="2 seeds for 3 images"):
        corrupt("snow", inputs, 1, [1, 2], UNIT_RANGE)


# Noise ----------------------------------------------------------------------------------------------------------------


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
    found = noise_module.gaussian_noise(inputs, 2, SEEDS)
    expected = [x + 0.06 * draws((3, 12, 10), seed, torch.randn) for x, seed in zip(inputs.numpy(), SEEDS, strict=True)]
    np.testing.assert_allclose(as_numpy(found), expected, atol=1e-7)


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
    found = as_numpy(noise_module.impulse_noise(inputs, 5, SEEDS))
    for n, seed in enumerate(SEEDS):
        for place, u in np.ndenumerate(draws((3, 12, 10), seed)):
            expected = 1.0 if u < 0.06 else 0.0 if u < 0.12 else float(inputs[n][place])
            assert found[n][place] == expected


# Blur -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("severity", [1, 3, 5])
def test_gaussian_blur_is_the_integral_over_a_normal_cloud(severity: int) -> None:
    inputs = pictures(1, 40, 36)
    found = as_numpy(blur.gaussian_blur(inputs, severity, SEEDS))
    sigma = 36 * blur.GAUSSIAN[severity - 1]
    for n in range(3):
        np.testing.assert_allclose(found[n, 0], gaussian_oracle(inputs[n, 0].numpy(), sigma), atol=0.003)


@pytest.mark.parametrize("severity", [1, 5])
def test_defocus_blur_is_the_mean_over_a_disc(severity: int) -> None:
    inputs = pictures(2, 24, 20)
    radius = 20 * blur.DISC[severity - 1]
    rings = [
        (radius * math.sqrt((i + 0.5) / 40) * math.cos(a), radius * math.sqrt((i + 0.5) / 40) * math.sin(a))
        for i in range(40)
        for a in np.linspace(0, 2 * math.pi, 24, endpoint=False)
    ]
    found = as_numpy(blur.defocus_blur(inputs, severity, SEEDS))
    np.testing.assert_allclose(found[1, 1], mean_look(inputs[1, 1].numpy(), rings), atol=0.005)


@pytest.mark.parametrize("severity", [1, 5])
def test_motion_blur_is_the_mean_over_a_track_at_the_drawn_angle(severity: int) -> None:
    inputs = pictures(2, 24, 20)
    found = as_numpy(blur.motion_blur(inputs, severity, SEEDS))
    length = 20 * blur.TRACK[severity - 1]
    for n, seed in enumerate(SEEDS):
        angle = math.radians(90 * (draws((1,), seed)[0] - 0.5))
        track = [(t * math.cos(angle), t * math.sin(angle)) for t in length * (np.arange(400) / 400 - 0.49875)]
        np.testing.assert_allclose(found[n, 1], mean_look(inputs[n, 1].numpy(), track), atol=0.004)


@pytest.mark.parametrize("severity", [1, 5])
def test_behind_glass_every_pixel_looks_elsewhere(severity: int) -> None:
    inputs = pictures(2, 24, 20)
    found = as_numpy(blur.glass_blur(inputs, severity, SEEDS))
    reach = 20 * blur.SCATTER[severity - 1]
    for n, seed in enumerate(SEEDS):
        right, down = reach * (2 * draws((24, 20, 2), seed) - 1).transpose(2, 0, 1)
        scattered = look(inputs[n, 1].numpy(), right, down, "reflect")
        np.testing.assert_allclose(found[n, 1], gaussian_oracle(scattered, reach / 4), atol=0.003)


@pytest.mark.parametrize("severity", [1, 5])
def test_zoom_blur_is_the_mean_of_magnified_copies(severity: int) -> None:
    inputs = pictures(2, 24, 20)
    found = as_numpy(blur.zoom_blur(inputs, severity, SEEDS))
    down, right = np.mgrid[:24, :20] - np.array([11.5, 9.5])[:, None, None]
    copies = [
        look(inputs[1, 1].numpy(), right / zoom - right, down / zoom - down, "nearest")
        for zoom in np.linspace(1, 1 + blur.ZOOM[severity - 1], 9)
    ]
    np.testing.assert_allclose(found[1, 1], np.mean(copies, axis=0), atol=1e-6)


# Weather --------------------------------------------------------------------------------------------------------------


def test_snow_is_streaks_of_flakes_over_a_bleached_picture() -> None:
    inputs = pictures(3, 16, 12)
    found = as_numpy(weather.snow(inputs, 4, SEEDS))
    white, limit = weather.WHITENING[3], stats.norm.ppf(1 - weather.FLAKES[3])
    for n, seed in enumerate(SEEDS):
        flakes = np.clip(2 * (draws((16, 12), seed, torch.randn) - limit), 0, 1)
        angle, length = math.radians(45 + 90 * draws((1,), seed)[0]), 0.12 * 12
        track = [(t * math.cos(angle), t * math.sin(angle)) for t in length * (np.arange(400) / 400 - 0.49875)]
        streaks = np.minimum(math.sqrt(length) * mean_look(flakes, track), 1)
        picture = inputs[n].numpy()
        bleached = np.maximum(picture, 0.5 + 1.5 * picture.mean(axis=0))
        expected = (1 - white) * picture + white * bleached + streaks + streaks[::-1, ::-1]
        np.testing.assert_allclose(found[n], expected, atol=0.01)


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
    found = as_numpy(weather.crystals(height, width, seed))
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert found.min() >= 0 and found.max() <= 1


@pytest.mark.parametrize(("channels", "colour"), [(3, weather.ICE), (1, (1.0,)), (2, (1.0, 1.0))])
def test_frost_mixes_the_picture_with_ice_of_its_colour(channels: int, colour: tuple[float, ...]) -> None:
    inputs = pictures(channels)
    found = as_numpy(weather.frost(inputs, 3, SEEDS))
    for n, seed in enumerate(SEEDS):
        ice = as_numpy(weather.crystals(12, 10, seed))
        for c in range(channels):
            expected = 0.8 * inputs[n, c].numpy() + 0.44 * colour[c] * ice
            np.testing.assert_allclose(found[n, c], expected, atol=1e-6)


def test_fog_is_a_cloud_of_octaves_mixed_with_the_picture() -> None:
    inputs = pictures(2, 16, 12)
    found = as_numpy(weather.fog(inputs, 2, SEEDS))
    for n, seed in enumerate(SEEDS):
        values, cloud, size = draws((9 + 25 + 81,), seed), np.zeros((16, 12)), 1.0
        for points in (3, 5, 9):
            lattice, values = values[: points**2].reshape(points, points), values[points**2 :]
            rows, columns = np.mgrid[:16, :12] * np.array([(points - 1) / 15, (points - 1) / 11])[:, None, None]
            cloud += size * ndimage.map_coordinates(lattice, [rows, columns], order=1, mode="nearest")
            size *= weather.ROUGHNESS
        cloud = (cloud - cloud.min()) / (cloud.max() - cloud.min())
        np.testing.assert_allclose(found[n], (inputs[n].numpy() + 0.45 * cloud) / 1.45, atol=1e-6)


# Light, geometry, storage ---------------------------------------------------------------------------------------------


def test_brightness_raises_the_value_of_hsv() -> None:
    inputs = pictures()
    inputs[0, :, 0, 0] = 0
    found = as_numpy(digital.brightness(inputs, 3, SEEDS))
    for n in range(3):
        for row in range(12):
            for column in range(10):
                hue, saturation, value = colorsys.rgb_to_hsv(*inputs[n, :, row, column].tolist())
                expected = colorsys.hsv_to_rgb(hue, saturation, min(value + 0.19, 1))
                np.testing.assert_allclose(found[n, :, row, column], expected, atol=1e-12)
    assert found[0, :, 0, 0].tolist() == [0.19] * 3


def test_brightness_of_a_grey_picture_is_a_sum() -> None:
    inputs = pictures(1)
    found = as_numpy(digital.brightness(inputs, 5, SEEDS))
    np.testing.assert_allclose(found, np.minimum(inputs.numpy() + 0.36, 1), atol=1e-12)


def test_contrast_shrinks_the_deviation_and_keeps_the_mean_of_every_channel() -> None:
    inputs = pictures()
    found = as_numpy(digital.contrast(inputs, 3, SEEDS))
    np.testing.assert_allclose(found.mean(axis=(2, 3)), inputs.numpy().mean(axis=(2, 3)))
    np.testing.assert_allclose(found.std(axis=(2, 3)), 0.37 * inputs.numpy().std(axis=(2, 3)))


@pytest.mark.parametrize("severity", [1, 5])
def test_elastic_displacements_are_smooth_and_of_the_stated_size(severity: int) -> None:
    inputs = pictures(2, 24, 20)
    found = as_numpy(digital.elastic_transform(inputs, severity, SEEDS))
    for n, seed in enumerate(SEEDS):
        field = np.array([gaussian_oracle(part, 2.0) for part in draws((2, 24, 20), seed, torch.randn)])
        field *= 20 * digital.ELASTIC[severity - 1] / np.sqrt((field**2).sum(axis=0).mean())
        np.testing.assert_allclose(found[n, 1], look(inputs[n, 1].numpy(), field[0], field[1], "reflect"), atol=0.01)


@pytest.mark.parametrize("severity", list(SEVERITIES))
def test_pixelation_is_box_averages_there_and_back(severity: int) -> None:
    inputs = pictures(2, 11, 8)
    found = as_numpy(digital.pixelate(inputs, severity, SEEDS))
    expected = inputs.numpy()
    for axis, length in ((2, 11), (3, 8)):
        boxes = round(digital.RESOLUTION[severity - 1] * length)
        fine = np.moveaxis(expected.repeat(boxes, axis=axis), axis, -1)
        coarse = fine.reshape(*fine.shape[:-1], boxes, length).mean(axis=-1).repeat(length, axis=-1)
        expected = np.moveaxis(coarse.reshape(*fine.shape[:-1], length, boxes).mean(axis=-1), -1, axis)
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_pixelation_to_a_divisor_is_pillows_box_filter() -> None:
    inputs = pictures(1, 16, 8)
    found = as_numpy(digital.pixelate(inputs, 5, SEEDS))
    image = Image.fromarray(inputs[0, 0].float().numpy())
    small = image.resize((2, 4), Image.Resampling.BOX)
    np.testing.assert_allclose(found[0, 0], np.asarray(small.resize((8, 16), Image.Resampling.NEAREST)), atol=1e-6)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_jpeg_is_what_pillow_writes_and_reads(channels: int) -> None:
    inputs = pictures(channels)
    found = as_numpy(digital.jpeg_compression(inputs, 4, SEEDS))

    def through(pixels: Array) -> Array:
        buffer = io.BytesIO()
        Image.fromarray((255 * pixels).round().astype(np.uint8)).save(buffer, "JPEG", quality=15)
        return np.asarray(Image.open(buffer)) / 255

    for n, picture in enumerate(inputs.numpy()):
        if channels == 3:
            expected = through(picture.transpose(1, 2, 0)).transpose(2, 0, 1)
        else:
            expected = np.stack([through(channel) for channel in picture])
        np.testing.assert_allclose(found[n], expected, atol=1e-6)


@pytest.mark.parametrize("severity", [1, 5])
def test_rotation_is_scipys(severity: int) -> None:
    inputs, seeds = pictures(2, 24, 20)[:1].expand(8, -1, -1, -1), list(range(8))
    found = as_numpy(digital.rotate(inputs, severity, seeds))
    angles = set()
    for n, seed in enumerate(seeds):
        angle = math.radians(digital.ANGLES[severity - 1]) * (-1 if draws((1,), seed)[0] < 0.5 else 1)
        turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
        centre = np.array([11.5, 9.5])
        expected = ndimage.affine_transform(inputs[n, 1].numpy(), turn, centre - turn @ centre, order=1, mode="nearest")
        np.testing.assert_allclose(found[n, 1], expected, atol=1e-6)
        angles.add(angle)
    assert len(angles) == 2


@pytest.mark.parametrize("severity", [1, 5])
def test_a_shift_is_scipys(severity: int) -> None:
    inputs = pictures(2, 24, 20)
    found = as_numpy(digital.shift(inputs, severity, SEEDS))
    for n, seed in enumerate(SEEDS):
        angle, length = 2 * math.pi * draws((1,), seed)[0], 20 * digital.SHIFTS[severity - 1]
        moved = (-length * math.sin(angle), -length * math.cos(angle))
        expected = ndimage.shift(inputs[n, 1].numpy(), moved, order=1, mode="nearest")
        np.testing.assert_allclose(found[n, 1], expected, atol=1e-6)
