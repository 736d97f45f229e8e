"""What all kinds of corruption have in common."""

import numpy as np
import pytest
import torch
from pictures import SEEDS, pictures
from reference import as_numpy, message_of

from robust_student.core.tensors import UNBOUNDED, UNIT_RANGE, InputRange
from robust_student.corruptions.kinds import CORRUPTIONS, IMAGENET_C, SEVERITIES, corrupt
from robust_student.data.readers.load import load_data

DETERMINISTIC = {"defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression", "gaussian_blur"}
KEEPS_CONSTANTS = {
    *("defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "gaussian_blur", "contrast"),
    *("elastic_transform", "pixelate", "rotate", "shift"),
}
kinds = pytest.mark.parametrize("kind", list(CORRUPTIONS))


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
        corrupted = corrupt(kind, inputs, severity, SEEDS, limits)
        assert corrupted.shape == inputs.shape and corrupted.dtype == dtype and corrupted.isfinite().all()
        assert torch.equal(limits.clip(corrupted), corrupted) and not torch.equal(corrupted, inputs)
    assert torch.equal(inputs, before)


@kinds
def test_the_range_changes_the_unit_and_nothing_else(kind: str) -> None:
    limits, inputs = InputRange(-2.0, 6.0), pictures()
    corrupted = corrupt(kind, limits.lower + limits.width * inputs, 3, SEEDS, limits)
    expected = corrupt(kind, inputs, 3, SEEDS, UNIT_RANGE)
    np.testing.assert_allclose(as_numpy((corrupted - limits.lower) / limits.width), as_numpy(expected), atol=1e-9)


@kinds
def test_severity_strictly_increases_the_change(kind: str) -> None:
    digits = load_data("digits").test.floats(slice(0, 200))
    by_severity = [corrupt(kind, digits, severity, list(range(200)), UNIT_RANGE) for severity in SEVERITIES]
    change = [float((images - digits).square().mean() / digits.square().mean()) for images in by_severity]
    assert change[0] > 0.003 and change[-1] < 0.6
    assert all(1.1 * low < high for low, high in zip(change, change[1:], strict=False)), change


@kinds
def test_an_image_does_not_depend_on_its_batch(kind: str) -> None:
    inputs = pictures(dtype=torch.float32)
    in_batch = corrupt(kind, inputs, 4, SEEDS, UNIT_RANGE)
    alone = torch.cat([corrupt(kind, inputs[n : n + 1], 4, [SEEDS[n]], UNIT_RANGE) for n in (2, 0, 1)])[[1, 2, 0]]
    np.testing.assert_allclose(as_numpy(in_batch), as_numpy(alone), atol=1e-5)
    assert torch.equal(in_batch, corrupt(kind, inputs, 4, SEEDS, UNIT_RANGE))


@kinds
def test_random_kinds_depend_on_the_seed_and_only_they(kind: str) -> None:
    corrupted = corrupt(kind, pictures()[:1].expand(8, -1, -1, -1), 5, list(range(8)), UNIT_RANGE)
    assert all(torch.allclose(corrupted[0], other, atol=1e-12) for other in corrupted[1:]) is (kind in DETERMINISTIC)


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
        corrupted = corrupt(kind, inputs, severity, [1, 2], UNIT_RANGE)
        np.testing.assert_allclose(as_numpy(corrupted), grey, atol=1e-9)


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
