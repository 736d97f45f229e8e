"""The three kinds of operation a traced network consists of, each with what bound propagation asks of it.

Rows are linear functionals of one operation's output, `(rows, *output shape)`; `owner` names each row's example.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from robust_student.bounds.activations import Activation, Interval, Lines
from robust_student.core.tensors import Shape

Map: TypeAlias = Callable[..., Tensor]


@dataclass(frozen=True, eq=False)
class Affine:
    """y = W x + b in one or several inputs: linear layers, convolutions, pooling by averages, additions, reshaping."""

    apply: Map
    """W x + b for batches of inputs."""
    shapes: tuple[Shape, ...]
    """Shape of each input, without the batch."""
    like: Tensor
    """Any tensor of the right dtype and device."""
    absolute: Map | None = None
    """|W| r + c for any c; None: every element of W is at least 0, so that `apply` serves."""
    adjoint: Callable[[Tensor], Tensor] | None = None
    """W^T rows, where a faster way than differentiating `apply` is known (one input)."""
    spectral: Callable[[], float] | None = None
    """An upper bound of the spectral norm of W better than the general one."""
    mixes: bool = True
    """Whether an output may depend on several elements of the inputs."""

    def zeros(self, batch: int) -> tuple[Tensor, ...]:
        """Zero inputs."""
        return tuple(self.like.new_zeros((batch, *shape)) for shape in self.shapes)

    @cached_property
    def bias(self) -> Tensor:
        """b, `(1, *output shape)`."""
        return self.apply(*self.zeros(1))

    def spread(self, *radii: Tensor) -> Tensor:
        """|W| r: the half-width of an output whose inputs have half-widths r."""
        map_ = self.apply if self.absolute is None else self.absolute
        return map_(*radii) - map_(*self.zeros(1))

    def pull(self, rows: Tensor) -> tuple[Tensor, ...]:
        """W^T rows: the same functionals in terms of the inputs."""
        if self.adjoint is not None:
            return (self.adjoint(rows),)
        return _adjoint(self.apply, self.zeros(len(rows)), rows)

    def pull_spread(self, rows: Tensor) -> tuple[Tensor, ...]:
        """|W|^T rows."""
        return _adjoint(self.apply if self.absolute is None else self.absolute, self.zeros(len(rows)), rows)

    def intervals(self, *parents: Interval) -> Interval:
        """Interval of the output (Gowal et al. 2018, eq. 6)."""
        centre = self.apply(*((lower + upper) / 2 for lower, upper in parents))
        radius = self.spread(*((upper - lower) / 2 for lower, upper in parents))
        return centre - radius, centre + radius

    def lipschitz(self, p: float, *parents: float) -> float:
        """Upper bound of ||W||_{p -> p} on inputs with the given Lipschitz constants."""
        if len(parents) > 1:
            return sum(self._alone(k).lipschitz(p, value) for k, value in enumerate(parents))
        return self._norm(p) * parents[0]

    def _norm(self, p: float) -> float:
        with torch.no_grad():
            rows = float(self.spread(*(torch.ones_like(x) for x in self.zeros(1))).amax())  # largest row sum of |W|
            if p == math.inf:
                return rows
            columns = float(self.pull_spread(torch.ones_like(self.bias))[0].amax())  # largest column sum
            if p == 1:
                return columns
            schur = math.sqrt(rows * columns)
            return schur if self.spectral is None else min(schur, self.spectral())

    def _alone(self, position: int) -> "Affine":
        """The operation as a function of one of its inputs, the others held at 0."""

        def fill(map_: Map) -> Map:
            def filled(x: Tensor) -> Tensor:
                others = self.zeros(len(x))
                return map_(*(x if k == position else other for k, other in enumerate(others)))

            return filled

        absolute = None if self.absolute is None else fill(self.absolute)
        return Affine(fill(self.apply), (self.shapes[position],), self.like, absolute)


@dataclass(frozen=True, eq=False)
class Elementwise:
    """y = f(x), element by element."""

    function: Activation

    def apply(self, x: Tensor) -> Tensor:
        """f(x)."""
        return self.function(x)

    def intervals(self, parent: Interval) -> Interval:
        """Interval of the output."""
        return self.function.interval(*parent)

    def settled(self, parent: Interval) -> Tensor:
        """Elements of the input whose interval need not be tightened."""
        return self.function.settled(*parent)

    def relax(self, parent: Interval) -> Lines:
        """Linear bounds given the input's interval, flat for each example."""
        return Lines(*(part.flatten(1) for part in self.function.lines(*parent)))

    def pull_lower(self, rows: Tensor, lines: Lines) -> tuple[Tensor, Tensor]:
        """A functional of the input and a constant whose sum is at most `rows . y`; lines of one example, flat."""
        flat = rows.flatten(1)
        positive = flat > 0
        bias = flat.masked_fill(positive, 0.0) @ lines.upper_offset
        if bool(lines.lower_offset.any()):
            bias = bias + flat.masked_fill(~positive, 0.0) @ lines.lower_offset
        return (flat * torch.where(positive, lines.lower_slope, lines.upper_slope)).view(rows.shape), bias

    def pull_slopes(self, rows: Interval, owner: Tensor, parent: Interval) -> Interval:
        """Interval of the gradients with respect to the input, given those with respect to the output."""
        least, greatest = self.function.slopes(*parent)
        return _multiply(rows, (least[owner], greatest[owner]))

    def lipschitz(self, p: float, parent: float) -> float:
        """The steepest slope times the input's constant."""
        return self.function.steepest * parent


class Faces(NamedTuple):
    """Linear bounds of maxima over windows, coefficients `(batch, outputs, window)`."""

    lower: Tensor
    upper: Tensor
    upper_offset: Tensor


@dataclass(frozen=True, eq=False)
class Maximum:
    """y_o = max over the window of o: max pooling, maxout (Goodfellow et al. 2013), the larger of two tensors."""

    shape: Shape
    """Of one input."""
    out_shape: Shape
    """Of one output."""
    window: Tensor
    """Positions in the flattened input, `(outputs, window)`; as many as there are inputs stands for padding."""
    direct: Map | None = None
    """The operation itself, where it is faster than gathering windows."""

    @property
    def size(self) -> int:
        """Elements of the input."""
        return math.prod(self.shape)

    def gather(self, x: Tensor, padding: float) -> Tensor:
        """The windows of each example, `(batch, outputs, window)`."""
        flat = torch.cat([x.flatten(1), x.new_full((len(x), 1), padding)], dim=1)
        return flat[:, self.window.flatten()].view(len(x), *self.window.shape)

    def apply(self, x: Tensor) -> Tensor:
        """The maxima."""
        if self.direct is not None:
            return self.direct(x)
        return self.gather(x, -math.inf).amax(dim=2).view(len(x), *self.out_shape)

    def intervals(self, parent: Interval) -> Interval:
        """Interval of the output: a maximum rises with every input."""
        return self.apply(parent[0]), self.apply(parent[1])

    def settled(self, parent: Interval) -> Tensor:
        """Inputs that certainly win or certainly lose in every window they are in."""
        candidates = self._candidates(parent)
        open_ = candidates & (candidates.sum(dim=2, keepdim=True) > 1)
        return self._scatter(open_.to(parent[0])).view(len(open_), *self.shape) == 0

    def relax(self, parent: Interval) -> Faces:
        """`y >= x_i` for the largest lower end; above, the better of two planes at the centre of the box.

        With L the largest lower end, `y <= L + sum_i [x_i - L]_+`, and each part lies below its chord; or `y <= max u`.
        Where one input certainly wins, both become `y = x_i`.
        """
        lower, upper = self.gather(parent[0], -math.inf), self.gather(parent[1], -math.inf)
        floor = lower.amax(dim=2, keepdim=True)
        winner = torch.zeros_like(lower).scatter_(2, lower.argmax(dim=2, keepdim=True), 1.0)
        candidates = upper > floor
        width = torch.where(candidates, upper - lower, 1.0)
        # The winner's own chord has slope 1 and offset 0, for its lower end is the floor.
        slope = torch.where(candidates & (winner == 0), (upper - floor) / width, winner)
        from_floor = torch.where(candidates & (winner == 0), slope * lower, 0.0).sum(dim=2)
        alone = (candidates & (winner == 0)).sum(dim=2) == 0
        ceiling = upper.amax(dim=2)
        centre = torch.where(slope > 0, (lower + upper) / 2, 0.0)
        constant = ~alone & ((slope * centre).sum(dim=2) - from_floor >= ceiling)
        slope = slope.masked_fill(constant[..., None], 0.0)
        return Faces(winner, slope, torch.where(constant, ceiling, -from_floor))

    def pull_lower(self, rows: Tensor, faces: Faces) -> tuple[Tensor, Tensor]:
        """A functional of the input and a constant whose sum is at most `rows . y`; faces of one example."""
        flat = rows.flatten(1)
        positive = flat > 0
        shares = flat[..., None] * torch.where(positive[..., None], faces.lower, faces.upper)
        return self._rows(shares), flat.masked_fill(positive, 0.0) @ faces.upper_offset

    def pull_slopes(self, rows: Interval, owner: Tensor, parent: Interval) -> Interval:
        """Interval of the gradients: the slope of a maximum is a weighting of its candidates (Clarke)."""
        candidates = self._candidates(parent)
        greatest = candidates.to(parent[0])
        least = (candidates & (candidates.sum(dim=2, keepdim=True) == 1)).to(parent[0])
        outer = tuple(end.flatten(1)[..., None] for end in rows)
        low, high = _multiply((outer[0], outer[1]), (least[owner], greatest[owner]))
        return self._rows(low), self._rows(high)

    def lipschitz(self, p: float, parent: float) -> float:
        """An input in k windows counts k^(1/p) times."""
        most = int(torch.bincount(self.window.flatten(), minlength=self.size)[: self.size].amax())
        return parent * (1.0 if p == math.inf else most ** (1 / p))

    @cached_property
    def _home(self) -> Tensor | None:
        """Position of each input in the flattened windows where no input is in two; one past the end: in none."""
        flat = self.window.flatten()
        inside = flat < self.size
        if len(torch.unique(flat[inside])) < int(inside.sum()):
            return None
        home = flat.new_full((self.size,), len(flat))
        home[flat[inside]] = inside.nonzero()[:, 0]
        return home

    def _candidates(self, parent: Interval) -> Tensor:
        lower, upper = self.gather(parent[0], -math.inf), self.gather(parent[1], -math.inf)
        return upper >= lower.amax(dim=2, keepdim=True)

    def _scatter(self, shares: Tensor) -> Tensor:
        """Add window elements up where they came from, `(rows, inputs)`."""
        flat = shares.flatten(1)
        if self._home is not None:
            padded = torch.cat([flat, flat.new_zeros((len(flat), 1))], dim=1)
            return padded[:, self._home]
        total = flat.new_zeros((len(flat), self.size + 1))
        return total.index_add_(1, self.window.flatten(), flat)[:, : self.size]

    def _rows(self, shares: Tensor) -> Tensor:
        return self._scatter(shares).view(len(shares), *self.shape)


Operation: TypeAlias = Affine | Elementwise | Maximum


def _multiply(first: Interval, second: Interval) -> Interval:
    """Interval of the product of two intervals."""
    ends = torch.stack([a * b for a in first for b in second])
    return ends.amin(dim=0), ends.amax(dim=0)


def _adjoint(map_: Map, inputs: tuple[Tensor, ...], rows: Tensor) -> tuple[Tensor, ...]:
    differentiable = torch.is_grad_enabled()  # the map's own weights may need a gradient where the rows do not
    with torch.enable_grad():
        points = tuple(x.requires_grad_() for x in inputs)
        return torch.autograd.grad(
            map_(*points), points, rows, create_graph=differentiable, allow_unused=True, materialize_grads=True
        )
