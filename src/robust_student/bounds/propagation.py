"""Sound lower bounds of every margin over a ball: by intervals, linear bounds, gradient bounds or a Lipschitz product.

All four walk the same operations. What they do where an operation is not affine is the whole difference:

- interval: take the operation's output interval (Gowal et al. 2018);
- linear: replace the operation by its linear bounds and go on to the input (CROWN: Zhang et al. 2018), with the
  intervals that are still too wide tightened the same way first;
- gradient: bound its slope, which bounds the gradient over the whole ball and so the slope of bounds A and B;
- lipschitz: bound its slope everywhere.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor

from robust_student.bounds.activations import Interval, Lines
from robust_student.bounds.ball import Ball
from robust_student.bounds.layers import Layers
from robust_student.bounds.operations import Affine, Elementwise, Faces, Maximum
from robust_student.core.tensors import Labels, Logits, Shape, slices

Method: TypeAlias = Literal["interval", "gradient", "lipschitz", "linear"]
"""How a margin is bounded; all but linear cost a few passes of the network."""
METHODS_OF_BOUNDS: tuple[Method, ...] = get_args(Method)
_ROWS = 128  # functionals carried back together: what they need stays in a processor's cache


def margin_bounds(layers: Layers, ball: Ball, labels: Labels, method: Method) -> Logits:
    """A lower bound of m_j(z) = S_y(z) - S_j(z) over the ball, for every class j; 0 at j = y. `(batch, classes)`.

    Sound in exact arithmetic; computed in the dtype of `layers` and `ball` (docs/theory.md on rounding). `gradient` and
    `lipschitz` are m_j(x) - R L_j with L_j an upper bound of max_z ||grad m_j(z)||_q: theorem A's slope, literally.
    """
    rows = _margin_rows(labels, layers.steps[-1].shape[0])
    owner = torch.arange(len(labels), device=labels.device).repeat_interleave(rows.shape[1])
    flat = rows.flatten(0, 1).to(ball.inputs)
    if method in ("gradient", "lipschitz"):
        slopes = margin_slopes(layers, ball, labels, method)
        clean = (rows.to(ball.inputs) @ layers(ball.inputs)[:, :, None])[:, :, 0]
        return clean - ball.radius[:, None] * slopes
    intervals = bound_steps(layers, ball, linear=method == "linear")
    if method == "interval":
        return _lower_bounds(layers, flat, owner, ball, _stop_at(intervals)).view(rows.shape[:2])
    relaxation = _Relaxation(layers, intervals)
    parts = _examples(owner)
    bounds = [_lower_bounds(layers, flat[part], owner[part], ball, relaxation.of(k)) for k, part in parts]
    return torch.cat(bounds).view(rows.shape[:2])


def margin_slopes(
    layers: Layers, ball: Ball, labels: Labels, method: Literal["gradient", "lipschitz"] = "gradient"
) -> Logits:
    """An upper bound of max over the ball of ||grad m_j(z)||_q for every class j; 0 at j = y. `(batch, classes)`.

    The denominator of theorem A over Clarke gradients. `gradient`: interval bounds of every partial derivative, from
    intervals of every activation over the ball; `lipschitz`: product of operator norms, the same for every ball.
    """
    rows = _margin_rows(labels, layers.steps[-1].shape[0])
    owner = torch.arange(len(labels), device=labels.device).repeat_interleave(rows.shape[1])
    flat = rows.flatten(0, 1).to(ball.inputs)
    if method == "lipschitz":
        slopes = _lipschitz(layers, flat, owner, ball)
    else:
        intervals = bound_steps(layers, ball, linear=False)
        parts = slices(len(flat), _ROWS)
        slopes = torch.cat([_gradient(layers, flat[part], owner[part], ball, intervals) for part in parts])
    return slopes.view(rows.shape[:2])


def _margin_rows(labels: Labels, classes: int) -> Tensor:
    """e_y - e_j for every example and class j, `(batch, classes, classes)`."""
    one_hot = torch.eye(classes, device=labels.device)
    return one_hot[labels][:, None, :] - one_hot


def bound_steps(layers: Layers, ball: Ball, *, linear: bool) -> list[Interval]:
    """Intervals of the input and of every step's output over the ball.

    With `linear`, an interval that decides the slope of a later operation is tightened by linear bounds carried back to
    the input. Otherwise only what depends on the input through affine operations alone is, for L1 and L2, where the
    ball is not its box.
    """
    readers = _bent_readers(layers)
    intervals: list[Interval] = [ball.box]
    affine, mixing = [True], [0]  # from the input to each step: affine alone? how many operations mix elements?
    for number, step in enumerate(layers.steps, start=1):
        operation = step.operation
        interval = operation.intervals(*(intervals[k] for k in step.parents))
        intervals.append(interval)
        affine.append(isinstance(operation, Affine) and all(affine[k] for k in step.parents))
        mixes = isinstance(operation, Affine) and operation.mixes
        mixing.append(mixes + max(mixing[k] for k in step.parents))
        if not readers[number]:
            continue
        if affine[number]:
            if ball.norm.p != torch.inf or mixing[number] > 1:  # with one, the intervals of Linf are exact
                intervals[number] = _tighten_affine(layers, number, ball, interval)
        elif linear and isinstance(operation, Affine):
            settled = torch.stack([reader.settled(interval) for reader in readers[number]]).all(dim=0)
            intervals[number] = _tighten(layers, number, ball, intervals, ~settled)
    return intervals


def _bent_readers(layers: Layers) -> list[list[Elementwise | Maximum]]:
    """The operations, not affine, that read the input and each step's output."""
    readers: list[list[Elementwise | Maximum]] = [[] for _ in range(len(layers.steps) + 1)]
    for step in layers.steps:
        if not isinstance(step.operation, Affine):
            for parent in step.parents:
                readers[parent].append(step.operation)
    return readers


def _tighten_affine(layers: Layers, number: int, ball: Ball, interval: Interval) -> Interval:
    """Exact bounds of a step that is an affine function of the input (without a range)."""
    shape = layers.steps[number - 1].shape
    ends = []
    for sign in (1.0, -1.0):
        columns = []
        for part in slices(math.prod(shape), _ROWS):
            positions = torch.arange(part.start, part.stop, device=ball.inputs.device)
            rows = sign * _unit_rows(positions, shape, ball.inputs)
            pulled, bias = _to_input(layers, number, rows)
            columns.append(ball.least_of_all(pulled) + bias)
        ends.append(torch.cat(columns, dim=1).view(len(ball.inputs), *shape))
    return torch.maximum(interval[0], ends[0]), torch.minimum(interval[1], -ends[1])


def _tighten(layers: Layers, number: int, ball: Ball, intervals: list[Interval], unsettled: Tensor) -> Interval:
    """Linear bounds, carried back to the input, of the unsettled elements of a step."""
    shape = layers.steps[number - 1].shape
    owners, positions = unsettled.flatten(1).nonzero(as_tuple=True)
    lower, upper = (end.flatten(1).clone() for end in intervals[number])
    relaxation = _Relaxation(layers, intervals)
    for example, part in _examples(owners):
        owner, position = owners[part], positions[part]
        rows, bend = _unit_rows(position, shape, ball.inputs), relaxation.of(example)
        least = _lower_bounds(layers, rows, owner, ball, bend, number)
        greatest = -_lower_bounds(layers, -rows, owner, ball, bend, number)
        lower[owner, position] = torch.maximum(lower[owner, position], least)
        upper[owner, position] = torch.minimum(upper[owner, position], greatest)
    whole = (len(lower), *shape)
    return torch.minimum(lower, upper).view(whole), torch.maximum(lower, upper).view(whole)


def _unit_rows(positions: Tensor, shape: Shape, like: Tensor) -> Tensor:
    rows = like.new_zeros((len(positions), math.prod(shape)))
    rows[torch.arange(len(positions), device=like.device), positions] = 1.0
    return rows.view(len(positions), *shape)


_Bend: TypeAlias = Callable[[int, Tensor, Tensor], tuple[Tensor | None, Tensor]]
"""Takes a bent step's number, rows and owners; gives rows of its input (None: stop here) and constants."""


def _lower_bounds(
    layers: Layers, rows: Tensor, owner: Tensor, ball: Ball, bend: _Bend, start: int | None = None
) -> Tensor:
    """Lower bounds of functionals of a step's output (default: the last), carried back towards the input."""
    total = rows.new_zeros(len(rows))
    pending = {len(layers.steps) if start is None else start: rows}
    while pending:
        number = max(pending)
        values = pending.pop(number)
        if number == 0:
            total = total + ball.least(values, owner)
            continue
        step = layers.steps[number - 1]
        if isinstance(step.operation, Affine):
            total = total + (values * step.operation.bias).flatten(1).sum(dim=1)
            pulled: tuple[Tensor | None, ...] = step.operation.pull(values)
        else:
            one, bias = bend(number, values, owner)
            total, pulled = total + bias, (one,)
        for parent, value in zip(step.parents, pulled, strict=True):
            if value is not None:
                pending[parent] = pending[parent] + value if parent in pending else value
    return total


def _stop_at(intervals: list[Interval]) -> _Bend:
    """interval: the functional's least value over the output's interval ends the journey."""

    def bend(number: int, rows: Tensor, owner: Tensor) -> tuple[Tensor | None, Tensor]:
        lower, upper = intervals[number]
        least = rows.clamp_min(0.0) * lower[owner] + rows.clamp_max(0.0) * upper[owner]
        return None, least.flatten(1).sum(dim=1)

    return bend


class _Relaxation:
    """linear: linear bounds of every bent operation, made once from its input's interval."""

    def __init__(self, layers: Layers, intervals: list[Interval]) -> None:
        self.layers, self.intervals = layers, intervals
        self.made: dict[int, Lines | Faces] = {}

    def of(self, example: int) -> _Bend:
        """The bounds for one example, all rows being its own."""

        def bend(number: int, rows: Tensor, owner: Tensor) -> tuple[Tensor | None, Tensor]:
            step = self.layers.steps[number - 1]
            operation: Any = step.operation
            if number not in self.made:
                self.made[number] = operation.relax(self.intervals[step.parents[0]])
            relaxed = self.made[number]
            return operation.pull_lower(rows, type(relaxed)(*(part[example] for part in relaxed)))

        return bend


def _to_input(layers: Layers, number: int, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Functionals of a step that is affine in the input, in terms of the input, and their constants."""
    pending, bias = {number: rows}, rows.new_zeros(len(rows))
    while max(pending) > 0:
        last = max(pending)
        values, step = pending.pop(last), layers.steps[last - 1]
        assert isinstance(step.operation, Affine)
        bias = bias + (values * step.operation.bias).flatten(1).sum(dim=1)
        for parent, value in zip(step.parents, step.operation.pull(values), strict=True):
            pending[parent] = pending[parent] + value if parent in pending else value
    return pending[0], bias


def _gradient(layers: Layers, rows: Tensor, owner: Tensor, ball: Ball, intervals: list[Interval]) -> Tensor:
    """Largest dual norm of an input gradient, from intervals of its elements."""
    pending: dict[int, Interval] = {len(layers.steps): (rows, rows)}
    while max(pending) > 0:
        last = max(pending)
        (low, high), step = pending.pop(last), layers.steps[last - 1]
        pulled: list[Interval]
        if isinstance(step.operation, Affine):
            centres = step.operation.pull((low + high) / 2)
            radii = step.operation.pull_spread((high - low) / 2)
            pulled = [(centre - radius, centre + radius) for centre, radius in zip(centres, radii, strict=True)]
        else:
            pulled = [step.operation.pull_slopes((low, high), owner, intervals[step.parents[0]])]
        for parent, (less, more) in zip(step.parents, pulled, strict=True):
            before = pending.get(parent)
            pending[parent] = (less, more) if before is None else (before[0] + less, before[1] + more)
    low, high = pending[0]
    return ball.norm.dual_size(torch.maximum(high, -low))


def _lipschitz(layers: Layers, rows: Tensor, owner: Tensor, ball: Ball) -> Tensor:
    """The functionals' dual norms at the last bent steps, times those steps' Lipschitz constants."""
    norm = ball.norm
    constants = [1.0 if norm.scale is None else float(norm.scale.max())]
    for step in layers.steps:
        parents = [constants[k] for k in step.parents]
        constants.append(step.operation.lipschitz(norm.p, *parents))
    slope = rows.new_zeros(len(rows))
    pending = {len(layers.steps): rows}
    while pending:
        last = max(pending)
        values = pending.pop(last)
        if last == 0 or not isinstance(layers.steps[last - 1].operation, Affine):
            size = norm.dual_size(values) if last == 0 else torch.linalg.vector_norm(values.flatten(1), norm.q, dim=1)
            slope = slope + size * (1.0 if last == 0 else constants[last])
            continue
        step = layers.steps[last - 1]
        for parent, value in zip(step.parents, step.operation.pull(values), strict=True):  # type: ignore[union-attr]
            pending[parent] = pending[parent] + value if parent in pending else value
    return slope


def _examples(owners: Tensor) -> Iterator[tuple[int, slice]]:
    """Runs of rows that belong to one example, at most `_ROWS` long; `owners` rise."""
    start = 0
    examples, counts = torch.unique_consecutive(owners, return_counts=True)
    for example, count in zip(examples.tolist(), counts.tolist(), strict=True):
        for part in slices(count, _ROWS):
            yield example, slice(start + part.start, start + part.stop)
        start += count
