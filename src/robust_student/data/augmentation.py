"""Training-time changes of a batch of images, as tensor functions on its device: crop, flip, mixup, CutMix."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from pydantic import (
    Field,
    model_validator,
)
from scipy.special import betaincinv
from torch import Tensor
from torch.nn import functional

from robust_student.core.errors import UserError
from robust_student.core.rng import ExampleRng
from robust_student.core.settings import Settings
from robust_student.core.tensors import Images, Inputs, Labels, PerExample


class AugmentationSettings(Settings):
    """Random changes of training images; the teacher sees the same changed images as the student."""

    crop: int = Field(0, ge=0)
    """Pixels of zero padding around the image out of which a window of the original size is cut; 0: no cropping."""
    flip: bool = False
    """Mirror left to right with probability 1/2."""
    mixup: float = Field(0.0, ge=0)
    """alpha of mixup: pairs of images are blended with a share drawn from Beta(alpha, alpha); 0: none."""
    cutmix: float = Field(0.0, ge=0)
    """alpha of CutMix: a rectangle comes from another image; 0: none."""

    @property
    def anything(self) -> bool:
        """Whether an input ever changes."""
        return self.crop > 0 or self.flip or self.mixup > 0 or self.cutmix > 0

    @model_validator(mode="after")
    def _one_mixture(self) -> "AugmentationSettings":
        if self.mixup > 0 and self.cutmix > 0:
            raise ValueError("mixup and cutmix exclude each other: set one of them to 0")
        return self


@dataclass(frozen=True, eq=False)
class Mixed:
    """A batch whose inputs may be mixtures of two examples."""

    inputs: Inputs
    labels: Labels
    """Class of the example with the larger share."""
    others: Labels
    """Class of the other one; the same where nothing was mixed."""
    shares: PerExample
    """Share of `labels` in the mixture, 0.5 to 1."""
    placement: "Placement | None" = None
    """Where in its original each input was cut out; None: it is the original."""


def augment(inputs: Inputs, labels: Labels, settings: AugmentationSettings, draws: ExampleRng) -> Mixed:
    """The batch as the settings want it: cropped, flipped, then mixed by mixup or CutMix.

    An example's crop, flip and share depend on its own draws, and its partner in a mixture is its neighbour in the
    shuffled batch: a batch split into parts of even size is mixed as a whole one is. Raises UserError where the inputs
    are not images.
    """
    if settings.anything and inputs.dim() != 4:
        raise UserError(f"augmentation: needs images (channels, height, width), not inputs {tuple(inputs.shape[1:])}")
    placement = Placement.drawn(len(inputs), settings, draws)
    if placement is not None:
        inputs = placement.carried(inputs)
    shares = torch.ones_like(labels, dtype=inputs.dtype)
    others = labels
    if settings.mixup > 0:
        inputs, shares = mixup(inputs, settings.mixup, draws)
    elif settings.cutmix > 0:
        inputs, shares = cutmix(inputs, settings.cutmix, draws)
    if settings.mixup > 0 or settings.cutmix > 0:
        others = labels[neighbours(labels)]
        swapped = shares < 0.5
        labels, others = torch.where(swapped, others, labels), torch.where(swapped, labels, others)
        shares = torch.where(swapped, 1 - shares, shares)
    return Mixed(inputs, labels, others, shares, placement)


@dataclass(frozen=True, eq=False)
class Placement:
    """Where each image of a batch is cut out of its original, and whether it is mirrored then.

    A window of the original size lies at a random place of the image padded with zeros (He et al. 2015, section 4.2),
    and is mirrored left to right with probability 1/2.
    """

    padding: int
    """Pixels of zeros around the original."""
    places: Int64[Tensor, "batch 2"] | None
    """Row and column of the window in the padded image; None: the whole original."""
    mirrored: Bool[Tensor, " batch"] | None
    """None: nobody is."""

    @classmethod
    def drawn(cls, count: int, settings: AugmentationSettings, draws: ExampleRng) -> "Placement | None":
        """What the settings' crop and flip draw; None where they ask for neither."""
        if settings.crop == 0 and not settings.flip:
            return None
        places, mirrored = None, None
        if settings.crop > 0:
            places = (draws.uniform((count, 2)) * (2 * settings.crop + 1)).long()
        if settings.flip:
            mirrored = draws.uniform((count, 1))[:, 0] < 0.5
        return cls(settings.crop, places, mirrored)

    def carried(self, originals: Images) -> Images:
        """Images, or perturbations of images, cut out and mirrored."""
        cut = originals
        if self.places is not None:
            cut = _windows(functional.pad(originals, [self.padding] * 4), self.places, originals.shape[2:])
        return self._mirror(cut)

    def back(self, cut: Images, originals: Images) -> Images:
        """`originals` with what lies in the windows replaced by `cut`; what lies outside of the image is lost."""
        cut = self._mirror(cut)
        if self.places is None:
            return cut
        height, width = originals.shape[2:]
        # The original's place in the window: the other way round, as far from the other side of the padding.
        there = _windows(functional.pad(cut, [self.padding] * 4), 2 * self.padding - self.places, (height, width))
        rows = torch.arange(height, device=cut.device) + self.padding - self.places[:, :1]
        columns = torch.arange(width, device=cut.device) + self.padding - self.places[:, 1:]
        inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]
        return torch.where(inside[:, None], there, originals)

    def _mirror(self, images: Images) -> Images:
        if self.mirrored is None:
            return images
        return torch.where(self.mirrored[:, None, None, None], images.flip(3), images)


def _windows(
    padded: Float[Tensor, "batch channels tall wide"], places: Int64[Tensor, "batch 2"], size: Sequence[int]
) -> Images:
    """The window of each image whose upper left corner lies at its place."""
    windows = padded.unfold(2, size[0], 1).unfold(3, size[1], 1)
    return windows[torch.arange(len(padded), device=padded.device), :, places[:, 0], places[:, 1]]


def neighbours(batch: Tensor) -> Int64[Tensor, " batch"]:
    """Positions of the partners in a mixture: 1, 0, 3, 2, 5, 4, ...; the last of an odd number takes the first."""
    positions = torch.arange(len(batch), device=batch.device) ^ 1
    return torch.where(positions < len(batch), positions, 0)


def mixup(inputs: Images, alpha: float, draws: ExampleRng) -> tuple[Images, PerExample]:
    """l x + (1 - l) x' with l ~ Beta(alpha, alpha) and x' its neighbour (Zhang et al. 2018).

    Returns the mixtures and the share l of each example.
    """
    shares = _beta(len(inputs), alpha, draws, inputs)
    weight = shares[:, None, None, None]
    return weight * inputs + (1 - weight) * inputs[neighbours(inputs)], shares


def cutmix(inputs: Images, alpha: float, draws: ExampleRng) -> tuple[Images, PerExample]:
    """A rectangle of about (1 - l) of the image comes from its neighbour (Yun et al. 2019).

    l ~ Beta(alpha, alpha); the rectangle's sides are sqrt(1 - l) of the image's, its centre is uniform, and what leaves
    the image is cut off. Returns the mixtures and the share of each example that is left.
    """
    _, _, height, width = inputs.shape
    side = (1 - _beta(len(inputs), alpha, draws, inputs)).sqrt()
    centre = draws.uniform((len(inputs), 2)).to(inputs)

    def inside(length: int, middle: Tensor) -> Tensor:
        first = ((middle * length) - side * length / 2).round().clamp(0, length)
        last = ((middle * length) + side * length / 2).round().clamp(0, length)
        place = torch.arange(length, device=inputs.device)
        return (place >= first[:, None]) & (place < last[:, None])

    rows, columns = inside(height, centre[:, 0]), inside(width, centre[:, 1])
    cut = (rows[:, :, None] & columns[:, None, :])[:, None]
    shares = 1 - cut.to(inputs.dtype).mean(dim=(1, 2, 3))
    return torch.where(cut, inputs[neighbours(inputs)], inputs), shares


def _beta(count: int, alpha: float, draws: ExampleRng, like: Tensor) -> Tensor:
    """Beta(alpha, alpha) by the inverse of its distribution function."""
    uniform = draws.uniform((count, 1), torch.float64)[:, 0].cpu()
    return torch.from_numpy(betaincinv(alpha, alpha, uniform.numpy())).to(like)
