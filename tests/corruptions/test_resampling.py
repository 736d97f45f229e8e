import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference import as_numpy
from scipy import ndimage

from robust_student.core.tensors import Shape
from robust_student.corruptions.resampling import averaging_kernels, displaced, pixel_offsets, weighted_averages


def images(shape: Shape = (2, 3, 7, 9)) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize(("edge", "mode"), [("border", "nearest"), ("reflection", "reflect")])
def test_displaced_pixels_are_scipys_bilinear_look_ups(edge: str, mode: str) -> None:
    inputs = images()
    offsets = 4 * torch.rand((2, 7, 9, 2), generator=torch.Generator().manual_seed(1), dtype=torch.float64) - 2
    resampled = as_numpy(displaced(inputs, offsets, "border" if edge == "border" else "reflection"))
    rows, columns = np.mgrid[:7, :9]
    for n in range(2):
        right, down = as_numpy(offsets[n]).transpose(2, 0, 1)
        for c in range(3):
            expected = ndimage.map_coordinates(
                as_numpy(inputs[n, c]), [rows + down, columns + right], order=1, mode=mode
            )
            np.testing.assert_allclose(resampled[n, c], expected, atol=1e-12)


def test_a_kernel_averages_the_interpolated_image_over_its_points() -> None:
    inputs = images()
    points = 3 * torch.rand((2, 5, 2), generator=torch.Generator().manual_seed(1), dtype=torch.float64) - 1.5
    resampled = as_numpy(weighted_averages(inputs, averaging_kernels(points, 2)))
    rows, columns = np.mgrid[:7, :9]
    for n in range(2):
        looks = [
            ndimage.map_coordinates(as_numpy(inputs[n, 0]), [rows + down, columns + right], order=1, mode="mirror")
            for right, down in points[n].tolist()
        ]
        np.testing.assert_allclose(resampled[n, 0], np.mean(looks, axis=0), atol=1e-12)


@given(st.lists(st.tuples(st.floats(-2, 2), st.floats(-2, 2)), min_size=1, max_size=5))
def test_a_kernels_weights_sum_to_one_and_its_middle_of_mass_is_that_of_the_points(
    points: list[tuple[float, float]],
) -> None:
    kernel = as_numpy(averaging_kernels(torch.tensor([points], dtype=torch.float64), 2))[0]
    down, right = np.mgrid[-2:3, -2:3]
    assert kernel.min() >= 0 and kernel.sum() == pytest.approx(1)
    assert [(kernel * right).sum(), (kernel * down).sum()] == pytest.approx(np.mean(points, axis=0), abs=1e-9)


def test_pixel_offsets_are_measured_from_the_centre_right_and_down() -> None:
    offsets = pixel_offsets(torch.zeros(1, 1, 2, 3))
    assert offsets.tolist() == [[[-1, -0.5], [0, -0.5], [1, -0.5]], [[-1, 0.5], [0, 0.5], [1, 0.5]]]
