"""Resizing is bilinear with antialiasing, exactly linear, and as differentiable as a matrix product."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn
from torch.nn import functional

from robust_student.bounds.trace import trace
from robust_student.models.resize import Resize

SIDES = st.integers(1, 24)


def images(height: int, width: int, channels: int = 3) -> torch.Tensor:
    return torch.rand(2, channels, height, width, generator=torch.Generator().manual_seed(height * 100 + width))


@given(SIDES, SIDES, SIDES, SIDES)
@settings(max_examples=40)
def test_it_is_antialiased_bilinear_interpolation(h: int, w: int, height: int, width: int) -> None:
    before = images(h, w)
    expected = functional.interpolate(before, (height, width), mode="bilinear", antialias=True)
    torch.testing.assert_close(Resize((h, w), (height, width))(before), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("before", "after"), [((8, 8), (32, 20)), ((30, 22), (11, 7)), ((9, 16), (16, 9))])
def test_it_is_what_pillow_does(before: tuple[int, int], after: tuple[int, int]) -> None:
    pixels = images(*before, channels=1)[0, 0]
    image = Image.fromarray(pixels.numpy(), mode=None)
    expected = np.asarray(image.resize((after[1], after[0]), Image.Resampling.BILINEAR))
    np.testing.assert_allclose(Resize(before, after)(pixels[None, None])[0, 0], expected, atol=2e-6)


@given(SIDES, SIDES, SIDES, SIDES)
@settings(max_examples=40)
def test_no_value_leaves_the_range_and_constants_stay(h: int, w: int, height: int, width: int) -> None:
    resize, before = Resize((h, w), (height, width)), images(h, w)
    after = resize(before)
    assert float(after.min()) >= float(before.min()) - 1e-6 and float(after.max()) <= float(before.max()) + 1e-6
    torch.testing.assert_close(resize(torch.full_like(before, 0.7)), torch.full((2, 3, height, width), 0.7))


@given(SIDES, SIDES)
@settings(max_examples=20)
def test_the_same_size_changes_nothing(h: int, w: int) -> None:
    torch.testing.assert_close(Resize((h, w), (h, w))(images(h, w)), images(h, w), atol=1e-6, rtol=0)


def test_its_weights_are_no_part_of_the_state_and_follow_the_device(any_device: torch.device) -> None:
    resize = Resize((4, 5), (6, 7)).to(any_device)
    assert resize.state_dict() == {} and resize(images(4, 5).to(any_device)).device.type == any_device.type


def test_gradients_of_any_order_are_exact() -> None:
    resize = Resize((3, 4), (5, 2)).double()
    point = images(3, 4, 1)[:1].double().requires_grad_()
    assert torch.autograd.gradcheck(resize, (point,)) and torch.autograd.gradgradcheck(resize, (point,))


def test_a_network_behind_it_can_be_certified() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        Resize((6, 4), (9, 9)), nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(147, 3)
    ).eval()
    inputs = images(6, 4, 2)
    layers = trace(network, (2, 6, 4)).layers(torch.float64)
    torch.testing.assert_close(layers(inputs.double()).float(), network(inputs), rtol=1e-4, atol=1e-5)
