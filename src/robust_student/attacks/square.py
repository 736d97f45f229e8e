"""Square attack (Andriushchenko et al. 2020): random search with squares, without gradients; each example its own."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from robust_student.attacks.attack import Attack
from robust_student.attacks.unscaled import without_scale
from robust_student.core.margins import margin
from robust_student.core.rng import generators
from robust_student.core.tensors import Inputs, Labels, PerExample, Shape, answers
from robust_student.core.threat_model import ThreatModel

_SHARE = 0.8  # of the image that the first square covers
_HALVED_AFTER = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # queries after which that share is halved
_TILES = 5  # along a side, of the first L1 or L2 perturbation
_AHEAD = 100  # queries for which numbers are drawn at once


@dataclass(frozen=True)
class Square(Attack):
    """Random search; needs no gradient."""

    queries: int = 5000

    @property
    def name(self) -> str:
        """As it stands in rows."""
        return "square"

    @property
    def passes(self) -> int:
        """One for each query."""
        return self.queries

    def propose(
        self, network: nn.Module, inputs: Inputs, labels: Labels, threat: ThreatModel, seeds: Sequence[int]
    ) -> Inputs:
        """The points of smallest margin met."""
        streams = generators(seeds, self.name)
        return without_scale(
            network, inputs, threat, lambda n, x, t: square(n, x, labels, t, streams, queries=self.queries)
        )


def square(
    network: nn.Module,
    inputs: Inputs,
    labels: Labels,
    threat: ThreatModel,
    generators: Sequence[torch.Generator],
    *,
    queries: int,
) -> Inputs:
    """The point of smallest margin that random search has met within `queries` queries, for every example.

    A candidate changes a square window of the best point so far and is kept where it lowers the margin (Andriushchenko
    et al. 2020, algorithm 1, with windows at positions of each example's own). Broken examples leave the batch. Inputs
    that are not images of at least five pixels a side are laid out as a square image. One generator per example.
    The norm must have no per-feature scale.
    """
    canvas = _Canvas.of(inputs)
    draws = _Draws(list(generators), 5 + canvas.channels)
    adversarial, positions = inputs.clone(), torch.arange(len(inputs), device=inputs.device)
    centres, truth = inputs, labels
    low, high = threat.box(inputs)
    points = _beginning(canvas, centres, threat, draws)
    least, broken = _margins(network, points, truth)
    for query in range(queries + 1):
        if bool(broken.any()):
            adversarial[positions[broken]] = points[broken]
            left = ~broken
            positions, centres, low, high, truth, points, least = (
                values[left] for values in (positions, centres, low, high, truth, points, least)
            )
            draws.keep(left)
        if len(positions) == 0 or query == queries:
            break
        uniform, side = draws.next().to(inputs), _side(canvas, query)
        if threat.norm.p == math.inf:
            trial = _with_square(canvas, points, low, high, uniform, side)
        else:
            trial = _moved_mass(canvas, points, centres, threat, uniform, side)
        lowest, broken = _margins(network, trial, truth)
        better = broken | (lowest < least)
        least[better], points[better] = lowest[better], trial[better]
    adversarial[positions] = points
    return adversarial


@dataclass(frozen=True)
class _Canvas:
    """How inputs are seen as images."""

    shape: Shape
    channels: int
    height: int
    width: int

    @classmethod
    def of(cls, inputs: Tensor) -> "_Canvas":
        shape = tuple(inputs.shape[1:])
        if len(shape) == 3 and min(shape[1:]) >= _TILES:
            return cls(shape, *shape)
        side = max(math.ceil(math.sqrt(math.prod(shape))), _TILES)
        return cls(shape, 1, side, side)

    def fold(self, inputs: Tensor) -> Tensor:
        """Inputs as images; pixels that are left over are 0."""
        missing = self.channels * self.height * self.width - math.prod(self.shape)
        flat = functional.pad(inputs.flatten(1), (0, missing)) if missing else inputs
        return flat.reshape(-1, self.channels, self.height, self.width)

    def unfold(self, images: Tensor) -> Tensor:
        return images.flatten(1)[:, : math.prod(self.shape)].reshape(-1, *self.shape)


class _Draws:
    """Uniform numbers for each example from its own generator, some queries ahead."""

    def __init__(self, generators: list[torch.Generator], width: int) -> None:
        self.generators, self.width = generators, width
        self.ahead, self.used = torch.empty(len(generators), 0, width), 0

    def next(self) -> Tensor:
        """`(standing, width)`."""
        if self.used == self.ahead.shape[1]:
            self.ahead = torch.stack([torch.rand(_AHEAD, self.width, generator=g) for g in self.generators])
            self.used = 0
        self.used += 1
        return self.ahead[:, self.used - 1]

    def keep(self, standing: Tensor) -> None:
        positions = standing.nonzero()[:, 0].cpu()
        self.generators = [self.generators[i] for i in positions.tolist()]
        self.ahead = self.ahead[positions]


@torch.no_grad()
def _margins(network: nn.Module, points: Tensor, labels: Tensor) -> tuple[PerExample, Tensor]:
    logits = network(points)
    return margin(logits, labels), answers(logits) != labels


def _side(canvas: _Canvas, query: int) -> int:
    share = _SHARE / 2 ** sum(query > limit for limit in _HALVED_AFTER)
    return min(max(round(math.sqrt(share * canvas.height * canvas.width)), 1), canvas.height, canvas.width)


def _signs(uniform: Tensor) -> Tensor:
    return torch.where(uniform < 0.5, -1.0, 1.0).to(uniform)


def _beginning(canvas: _Canvas, centres: Tensor, threat: ThreatModel, draws: _Draws) -> Tensor:
    """Linf: vertical stripes of random signs per channel; L1, L2: a grid of tiles with random signs."""
    batch, channels = len(centres), canvas.channels
    if threat.norm.p == math.inf:
        drawn = [torch.rand(channels, 1, canvas.width, generator=g) for g in draws.generators]
        stripes = _signs(torch.stack(drawn).to(centres)).expand(-1, -1, canvas.height, -1)
        return threat.clip(centres + threat.budget * canvas.unfold(stripes))
    side = max(min(canvas.height, canvas.width) // _TILES, 1)
    rows, columns = canvas.height // side, canvas.width // side
    uniform = torch.stack([torch.rand(rows, columns, 1 + channels, generator=g) for g in draws.generators]).to(centres)
    patterns = _patterns(side, threat.norm.p).to(centres)
    image = centres.new_zeros(batch, channels, canvas.height, canvas.width)
    top, start = (canvas.height - rows * side) // 2, (canvas.width - columns * side) // 2
    for row in range(rows):
        for column in range(columns):
            cell = uniform[:, row, column]
            tile = patterns[(cell[:, 0] > 0.5).long()][:, None] * _signs(cell[:, 1:])[:, :, None, None]
            y, x = top + row * side, start + column * side
            image[:, :, y : y + side, x : x + side] = tile
    change = canvas.unfold(image)
    length = threat.norm.size(change).clamp_min(torch.finfo(change.dtype).tiny).view(-1, *[1] * (change.dim() - 1))
    return threat.nearest(centres + threat.budget * change / length, centres)


def _with_square(canvas: _Canvas, points: Tensor, low: Tensor, high: Tensor, uniform: Tensor, side: int) -> Tensor:
    """Linf: one candidate per example, a window of it at an end of the ball, channel by channel (algorithm 2)."""
    top, left = _corner(uniform[:, 0], canvas.height, side), _corner(uniform[:, 1], canvas.width, side)
    window = _pixels(canvas, top, left, side).expand(-1, canvas.channels, -1)
    image, low, high = (canvas.fold(values).flatten(2) for values in (points, low, high))
    ends = torch.where(uniform[:, 5:, None] < 0.5, low.gather(2, window), high.gather(2, window))
    return canvas.unfold(image.scatter(2, window, ends))


def _corner(uniform: Tensor, length: int, side: int) -> Tensor:
    return (uniform * (length - side + 1)).long().clamp_max(length - side)


def _moved_mass(
    canvas: _Canvas, points: Tensor, centres: Tensor, threat: ThreatModel, uniform: Tensor, side: int
) -> Tensor:
    """L1, L2: the size that a second window gives up is put into the first, in a new pattern (algorithm 3)."""
    side, power = min(max(side, 3) // 2 * 2 + 1, canvas.height, canvas.width), threat.norm.p
    image = canvas.fold(points - centres).flatten(2)
    rows, columns = _corner(uniform[:, ::2], canvas.height, side), _corner(uniform[:, 1::2], canvas.width, side)
    first = _pixels(canvas, rows[:, 0], columns[:, 0], side).expand(-1, canvas.channels, -1)
    second = _pixels(canvas, rows[:, 1], columns[:, 1], side).expand(-1, canvas.channels, -1)

    def mass(values: Tensor) -> Tensor:
        return values.abs().pow(power).sum(dim=2, keepdim=True)

    old = image.gather(2, first)
    freed = mass(old) + mass(image.scatter(2, first, 0.0).gather(2, second))
    unused = (threat.budget**power - mass(image).sum(dim=1, keepdim=True)).clamp_min(0.0) / canvas.channels
    pattern = _patterns(side, power).to(image)[(uniform[:, 4] > 0.5).long()].flatten(1)[:, None]
    new = old / (mass(old) ** (1 / power)).clamp_min(1e-12) + _signs(uniform[:, 5:])[:, :, None] * pattern
    new = new * ((unused + freed) / mass(new).clamp_min(1e-12)) ** (1 / power)
    change = canvas.unfold(image.scatter(2, second, 0.0).scatter(2, first, new))
    length = threat.norm.size(change).clamp_min(torch.finfo(change.dtype).tiny)
    if power == 1:
        length = length.clamp_min(threat.budget)  # never longer, but for rounding
    return threat.clip(centres + change * (threat.budget / length).view(-1, *[1] * (change.dim() - 1)))


def _pixels(canvas: _Canvas, top: Tensor, left: Tensor, side: int) -> Tensor:
    """Where in the flattened image the pixels of each window are, `(batch, 1, side * side)`."""
    steps = torch.arange(side, device=top.device)
    rows, columns = top[:, None] + steps, left[:, None] + steps
    return (rows[:, :, None] * canvas.width + columns[:, None]).flatten(1)[:, None]


def _patterns(side: int, power: float) -> Tensor:
    """The two orientations of the perturbation of one window, `(2, side, side)`, of unit size (section 3.4)."""
    half = side // 2
    pattern = torch.cat([_pyramid(half, side, power), -_pyramid(side - half, side, power)])
    pattern = pattern / torch.linalg.vector_norm(pattern, power).clamp_min(1e-12)
    return torch.stack([pattern, pattern.T])


def _pyramid(height: int, width: int, power: float) -> Tensor:
    """Nested rectangles around the middle, the k-th from inside raising the values by 1 / (k + 1)^(2 or, L1, 4)."""
    values = torch.zeros(height, width)
    for k, (top, left) in enumerate(_corners(height, width)):
        rows = slice(max(top, 0), min(top + 2 * k + 1, height))
        columns = slice(max(left, 0), min(left + 2 * k + 1, width))
        values[rows, columns] += 1 / (k + 1) ** (2 if power == 2 else 4)
    return values / torch.linalg.vector_norm(values, power).clamp_min(1e-12)


def _corners(height: int, width: int) -> Iterator[tuple[int, int]]:
    top, left = height // 2, width // 2
    return ((top - k, left - k) for k in range(max(top, left) + 1))
