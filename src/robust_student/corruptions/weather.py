"""Weather corruptions of images in [0, 1]: random fields drawn over the whole image, mixed with it."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from robust_student.core.rng import normal_per_example, uniform_per_example
from robust_student.core.tensors import Images
from robust_student.corruptions.blur import along

FLAKES = (0.012, 0.02, 0.03, 0.045, 0.065)
"""Share of the picture that flakes cover before they fall."""
WHITENING = (0.04, 0.07, 0.1, 0.13, 0.16)
"""How far the picture goes towards its bleached copy under snow."""
_STREAK = 0.12
"""Length of a falling flake's streak, share of the shorter side."""
_FLAKE_SIZE = 1 / 40
"""Size of a flake, share of the shorter side, at least one pixel."""
_FROST = ((0.95, 0.2), (0.88, 0.32), (0.8, 0.44), (0.72, 0.56), (0.64, 0.68))
"""Shares of the picture and of the crystals (frost)."""
CRYSTALS = (9, 40)
"""Crystals in a picture: large and small ones."""
ICE = (0.86, 0.94, 1.0)
"""Colour of frost on images of three channels."""
_FOG = (0.25, 0.45, 0.7, 1.05, 1.5)
"""Density of the fog relative to the picture."""
ROUGHNESS = 0.55
"""Size of each octave of the fog relative to the one of twice its wavelength."""


def snow(images: Images, severity: int, seeds: Sequence[int]) -> Images:
    """Streaks of flakes in one direction per image, and their half-turned copy, over a bleached picture.

    x -> (1 - w) x + w max(x, (1 + 3 grey) / 2) + flakes + flakes turned by 180 degrees, grey the mean over channels.
    """
    height, width = images.shape[2:]
    size = max(1.0, _FLAKE_SIZE * min(height, width))
    rows, columns = math.ceil(height / size), math.ceil(width / size)
    draws = normal_per_example((rows * columns,), seeds).to(images).view(-1, 1, rows, columns)
    field = functional.interpolate(draws, (height, width), mode="bilinear", align_corners=False)
    limit = float(torch.special.ndtri(torch.tensor(1 - FLAKES[severity - 1], dtype=torch.float64)))
    flakes = (2 * (field - limit)).clamp(0, 1)
    angles = math.pi / 4 + math.pi / 2 * uniform_per_example((1,), seeds).to(images)
    length = max(1.0, _STREAK * min(height, width))
    streaks = (math.sqrt(length) * along(flakes, angles, length)).clamp(max=1)
    white = WHITENING[severity - 1]
    bleached = torch.maximum(images, (1 + 3 * images.mean(dim=1, keepdim=True)) / 2)
    return (1 - white) * images + white * bleached + streaks + streaks.rot90(2, (2, 3))


def frost(images: Images, severity: int, seeds: Sequence[int]) -> Images:
    """a x + b ice, with a procedural texture of crystals in place of ImageNet-C's photographs of frost."""
    picture, ice = _FROST[severity - 1]
    channels, height, width = images.shape[1:]
    colour = images.new_tensor(ICE if channels == 3 else (1.0,)).view(-1, 1, 1)
    texture = torch.stack([crystals(height, width, seed) for seed in seeds]).to(images)
    return picture * images + ice * colour * texture[:, None]


def crystals(height: int, width: int, seed: int) -> Float[Tensor, "height width"]:
    """Ice crystals in [0, 1]: facets of random brightness with bright edges, in two sizes (Worley 1996).

    A pixel belongs to the nearest of random points; with distances d1 <= d2 to the two nearest in units of the mean
    spacing, its edge is exp(-8 (d2 - d1)).
    """
    generator = torch.Generator().manual_seed(seed)
    long = max(height, width)
    rows, columns = (torch.arange(height) + 0.5) / long, (torch.arange(width) + 0.5) / long
    pixels = torch.cartesian_prod(rows, columns)
    layers = []
    for count in CRYSTALS:
        places = torch.rand((count, 2), generator=generator) * torch.tensor([height, width]) / long
        shades = torch.rand((count,), generator=generator)
        distances = torch.cdist(places, pixels)
        first, nearest = distances.min(dim=0)
        second = distances.scatter_(0, nearest[None], math.inf).amin(dim=0)
        spacing = math.sqrt(height * width / count) / long
        edges = (-8 * (second - first) / spacing).exp()
        layers.append(0.55 * shades[nearest].square() + 0.45 * edges)
    return (0.6 * layers[0] + 0.4 * layers[1]).view(height, width)


def fog(images: Images, severity: int, seeds: Sequence[int]) -> Images:
    """(x + c m) / (1 + c), m a plasma field in [0, 1] with more power in longer waves."""
    density = _FOG[severity - 1]
    return (images + density * _plasma(images, seeds)) / (1 + density)


def _plasma(images: Images, seeds: Sequence[int]) -> Float[Tensor, "batch 1 height width"]:
    """A cloud from 0 to 1: octaves of bilinearly interpolated noise, lattices of 3, 5, 9, ... points a side."""
    height, width = images.shape[2:]
    lattices = [2**k + 1 for k in range(1, max(2, math.ceil(math.log2(max(height, width)))))]
    draws = uniform_per_example((sum(n * n for n in lattices),), seeds).to(images)
    field, size = torch.zeros_like(images[:, :1]), 1.0
    for part, n in zip(torch.split(draws, [n * n for n in lattices], dim=1), lattices, strict=True):
        lattice = part.reshape(-1, 1, n, n)
        field = field + size * functional.interpolate(lattice, (height, width), mode="bilinear", align_corners=True)
        size *= ROUGHNESS
    low, high = field.amin(dim=(1, 2, 3), keepdim=True), field.amax(dim=(1, 2, 3), keepdim=True)
    return (field - low) / (high - low)
