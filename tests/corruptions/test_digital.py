"""Light, geometry and storage against other libraries."""

import colorsys
import io
import math

import numpy as np
import pytest
import torch
from pictures import SEEDS, draws, gaussian_oracle, look, pictures
from PIL import Image
from reference import as_numpy
from reference_norm import Array
from scipy import ndimage

from robust_student.corruptions import digital
from robust_student.corruptions.kinds import SEVERITIES


def test_brightness_raises_the_value_of_hsv() -> None:
    inputs = pictures()
    inputs[0, :, 0, 0] = 0
    corrupted = as_numpy(digital.brightness(inputs, 3, SEEDS))
    for n in range(3):
        for row in range(12):
            for column in range(10):
                hue, saturation, value = colorsys.rgb_to_hsv(*inputs[n, :, row, column].tolist())
                expected = colorsys.hsv_to_rgb(hue, saturation, min(value + 0.19, 1))
                np.testing.assert_allclose(corrupted[n, :, row, column], expected, atol=1e-12)
    assert corrupted[0, :, 0, 0].tolist() == [0.19] * 3


def test_brightness_of_a_grey_picture_is_a_sum() -> None:
    inputs = pictures(1)
    corrupted = as_numpy(digital.brightness(inputs, 5, SEEDS))
    np.testing.assert_allclose(corrupted, np.minimum(inputs.numpy() + 0.36, 1), atol=1e-12)


def test_contrast_shrinks_the_deviation_and_keeps_the_mean_of_every_channel() -> None:
    inputs = pictures()
    corrupted = as_numpy(digital.contrast(inputs, 3, SEEDS))
    np.testing.assert_allclose(corrupted.mean(axis=(2, 3)), inputs.numpy().mean(axis=(2, 3)))
    np.testing.assert_allclose(corrupted.std(axis=(2, 3)), 0.37 * inputs.numpy().std(axis=(2, 3)))


@pytest.mark.parametrize("severity", [1, 5])
def test_elastic_displacements_are_smooth_and_of_the_stated_size(severity: int) -> None:
    inputs = pictures(2, 24, 20)
    corrupted = as_numpy(digital.elastic_transform(inputs, severity, SEEDS))
    for n, seed in enumerate(SEEDS):
        field = np.array([gaussian_oracle(part, 2.0) for part in draws((2, 24, 20), seed, torch.randn)])
        field *= 20 * digital.ELASTIC[severity - 1] / np.sqrt((field**2).sum(axis=0).mean())
        np.testing.assert_allclose(
            corrupted[n, 1], look(inputs[n, 1].numpy(), field[0], field[1], "reflect"), atol=0.01
        )


@pytest.mark.parametrize("severity", list(SEVERITIES))
def test_pixelation_is_box_averages_there_and_back(severity: int) -> None:
    inputs = pictures(2, 11, 8)
    corrupted = as_numpy(digital.pixelate(inputs, severity, SEEDS))
    expected = inputs.numpy()
    for axis, length in ((2, 11), (3, 8)):
        boxes = round(digital.RESOLUTION[severity - 1] * length)
        fine = np.moveaxis(expected.repeat(boxes, axis=axis), axis, -1)
        coarse = fine.reshape(*fine.shape[:-1], boxes, length).mean(axis=-1).repeat(length, axis=-1)
        expected = np.moveaxis(coarse.reshape(*fine.shape[:-1], length, boxes).mean(axis=-1), -1, axis)
    np.testing.assert_allclose(corrupted, expected, atol=1e-12)


def test_pixelation_to_a_divisor_is_pillows_box_filter() -> None:
    inputs = pictures(1, 16, 8)
    corrupted = as_numpy(digital.pixelate(inputs, 5, SEEDS))
    image = Image.fromarray(inputs[0, 0].float().numpy())
    small = image.resize((2, 4), Image.Resampling.BOX)
    np.testing.assert_allclose(corrupted[0, 0], np.asarray(small.resize((8, 16), Image.Resampling.NEAREST)), atol=1e-6)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_jpeg_is_what_pillow_writes_and_reads(channels: int) -> None:
    inputs = pictures(channels)
    corrupted = as_numpy(digital.jpeg_compression(inputs, 4, SEEDS))

    def through(pixels: Array) -> Array:
        buffer = io.BytesIO()
        Image.fromarray((255 * pixels).round().astype(np.uint8)).save(buffer, "JPEG", quality=15)
        return np.asarray(Image.open(buffer)) / 255

    for n, picture in enumerate(inputs.numpy()):
        if channels == 3:
            expected = through(picture.transpose(1, 2, 0)).transpose(2, 0, 1)
        else:
            expected = np.stack([through(channel) for channel in picture])
        np.testing.assert_allclose(corrupted[n], expected, atol=1e-6)


@pytest.mark.parametrize("severity", [1, 5])
def test_rotation_is_scipys(severity: int) -> None:
    inputs, seeds = pictures(2, 24, 20)[:1].expand(8, -1, -1, -1), list(range(8))
    corrupted = as_numpy(digital.rotate(inputs, severity, seeds))
    angles = set()
    for n, seed in enumerate(seeds):
        angle = math.radians(digital.ANGLES[severity - 1]) * (-1 if draws((1,), seed)[0] < 0.5 else 1)
        turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
        centre = np.array([11.5, 9.5])
        expected = ndimage.affine_transform(inputs[n, 1].numpy(), turn, centre - turn @ centre, order=1, mode="nearest")
        np.testing.assert_allclose(corrupted[n, 1], expected, atol=1e-6)
        angles.add(angle)
    assert len(angles) == 2


@pytest.mark.parametrize("severity", [1, 5])
def test_a_shift_is_scipys(severity: int) -> None:
    inputs = pictures(2, 24, 20)
    corrupted = as_numpy(digital.shift(inputs, severity, SEEDS))
    for n, seed in enumerate(SEEDS):
        angle, length = 2 * math.pi * draws((1,), seed)[0], 20 * digital.SHIFTS[severity - 1]
        moved = (-length * math.sin(angle), -length * math.cos(angle))
        expected = ndimage.shift(inputs[n, 1].numpy(), moved, order=1, mode="nearest")
        np.testing.assert_allclose(corrupted[n, 1], expected, atol=1e-6)
