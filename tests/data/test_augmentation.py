"""Crops, flips and mixtures of images, each against a loop or a closed form."""

import numpy as np
import pytest
import torch
from reference import message_of
from torch import Tensor
from torch.nn import functional

from robust_student.core.rng import ExampleRng
from robust_student.data.augmentation import AugmentationSettings, augment, cutmix, mixup, neighbours

IMAGES = torch.rand((40, 3, 6, 5), generator=torch.Generator().manual_seed(0)) + 0.1
LABELS = torch.arange(40) % 7


def draws(step: int = 1, numbers: Tensor | None = None) -> ExampleRng:
    return ExampleRng(0, step, torch.arange(40) if numbers is None else numbers)


def windows(image: Tensor, padding: int) -> list[Tensor]:
    """Every window of the padded image, in reading order."""
    height, width = image.shape[1:]
    padded = functional.pad(image, [padding] * 4)
    return [
        padded[:, top : top + height, left : left + width]
        for top in range(2 * padding + 1)
        for left in range(2 * padding + 1)
    ]


def test_a_crop_is_one_of_the_windows_of_the_padded_image_and_every_window_occurs() -> None:
    seen = set[int]()
    for step in range(12):
        cut = augment(IMAGES, LABELS, AugmentationSettings(crop=1), draws(step)).inputs
        for image, cropped in zip(IMAGES, cut, strict=True):
            matches = [k for k, window in enumerate(windows(image, 1)) if torch.equal(window, cropped)]
            assert len(matches) == 1
            seen.add(matches[0])
    assert seen == set(range(9))


def test_about_half_of_the_images_are_mirrored_and_the_others_left_alone() -> None:
    flipped = augment(IMAGES, LABELS, AugmentationSettings(flip=True), draws()).inputs
    mirrored = [torch.equal(a, b.flip(2)) for a, b in zip(flipped, IMAGES, strict=True)]
    assert all(m or torch.equal(a, b) for m, a, b in zip(mirrored, flipped, IMAGES, strict=True))
    assert 8 < sum(mirrored) < 32


def test_crop_and_flip_of_an_example_do_not_depend_on_its_batch() -> None:
    settings = AugmentationSettings(crop=2, flip=True)
    whole = augment(IMAGES, LABELS, settings, draws()).inputs
    part = augment(IMAGES[11:17], LABELS[11:17], settings, draws(numbers=torch.arange(11, 17))).inputs
    assert torch.equal(whole[11:17], part)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_mixup_blends_with_the_neighbour_with_beta_shares(alpha: float) -> None:
    shares = []
    for step in range(30):
        mixed, share = mixup(IMAGES, alpha, draws(step))
        for k in range(40):
            blend = share[k] * IMAGES[k] + (1 - share[k]) * IMAGES[k ^ 1]
            torch.testing.assert_close(mixed[k], blend)
        shares.append(share)
    all_shares = torch.cat(shares).double().numpy()
    # Beta(a, a) has mean 1/2 and variance 1 / (4 (2 a + 1)).
    assert np.mean(all_shares) == pytest.approx(0.5, abs=0.05)
    assert np.var(all_shares) == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.15)


def test_cutmix_takes_a_rectangle_from_the_neighbour_and_tells_what_is_left() -> None:
    mixed, shares = cutmix(IMAGES, 1.0, draws())
    for k in range(40):
        own, other = (mixed[k] == IMAGES[k]).all(dim=0), (mixed[k] == IMAGES[k ^ 1]).all(dim=0)
        assert bool((own | other).all())
        assert float(shares[k]) == pytest.approx(1 - float(other.double().mean()))
        if bool(other.any()):
            rows, columns = other.any(dim=1), other.any(dim=0)
            assert torch.equal(other, rows[:, None] & columns[None, :])
    assert float(shares.min()) < 0.5 < float(shares.max())


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_the_first_label_is_that_of_the_larger_share(kind: str) -> None:
    settings = AugmentationSettings.model_validate({kind: 1.0})
    batch = augment(IMAGES, LABELS, settings, draws())
    assert float(batch.shares.min()) >= 0.5
    pairs = torch.stack([LABELS, LABELS[neighbours(LABELS)]], dim=1).sort(dim=1).values
    assert torch.equal(torch.stack([batch.labels, batch.others], dim=1).sort(dim=1).values, pairs)
    assert not torch.equal(batch.labels, LABELS)


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_a_batch_in_even_parts_is_mixed_as_a_whole(kind: str) -> None:
    settings = AugmentationSettings.model_validate({kind: 1.0})
    whole = augment(IMAGES, LABELS, settings, draws())
    parts = [
        augment(IMAGES[k : k + 10], LABELS[k : k + 10], settings, draws(numbers=torch.arange(k, k + 10)))
        for k in range(0, 40, 10)
    ]
    for name in ("inputs", "labels", "others", "shares"):  # a mean may be rounded otherwise in another batch size
        together = torch.cat([getattr(part, name) for part in parts])
        torch.testing.assert_close(together, getattr(whole, name), atol=1e-6, rtol=0)


def test_the_last_of_an_odd_number_takes_the_first() -> None:
    assert neighbours(torch.zeros(5)).tolist() == [1, 0, 3, 2, 0]
    assert neighbours(torch.zeros(1)).tolist() == [0]


def test_without_augmentation_the_batch_is_the_batch() -> None:
    batch = augment(IMAGES, LABELS, AugmentationSettings(), draws())
    assert batch.inputs is IMAGES and batch.labels is LABELS and bool((batch.shares == 1).all())


def test_what_is_no_image_is_refused() -> None:
    settings = AugmentationSettings(flip=True)
    assert "needs images" in message_of(lambda: augment(torch.rand(40, 5), LABELS, settings, draws()))
    with pytest.raises(ValueError, match="exclude each other"):
        AugmentationSettings(mixup=1.0, cutmix=1.0)
