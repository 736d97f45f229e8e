"""What maxima become: pooling with any window, maxout, and the larger one of two tensors."""

import math
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from robust_student.bounds.activations import RELU
from robust_student.bounds.affine_translations import scaled
from robust_student.bounds.layers import Call, Parts, Steps, Traced, Translation
from robust_student.bounds.operations import Affine, Elementwise, Maximum
from robust_student.core.tensors import Shape


def _positions(shape: Shape) -> Tensor:
    """The number of every element of one input, shaped as that input."""
    return torch.arange(math.prod(shape)).view(shape)


def _pool(steps: Steps, call: Call) -> Traced:
    parent, out = call.traced, call.shape()
    lists = (call.argument(1, "kernel_size"), call.argument(2, "stride"), call.argument(3, "padding", 0))
    both = len(parent.shape) - 1  # spatial dimensions: 1 or 2
    kernel, stride, padding, dilation = (_pair(v, both) for v in (*lists, call.argument(4, "dilation", 1)))
    window = _pooling_windows(parent.shape, out, (kernel, stride or kernel, padding, dilation))
    return steps.add(Maximum(parent.shape, out, window.to(steps.like.device), call.run), [parent], out)


@lru_cache(maxsize=128)
def _pooling_windows(shape: Shape, out: Shape, lists: tuple[Shape, Shape, Shape, Shape]) -> Tensor:
    """Windows of max pooling with any stride, padding and dilation, read off by unfolding the inputs' numbers."""
    size = math.prod(shape)
    numbers = torch.arange(size, dtype=torch.float64).view(shape)
    kernel, stride, padding, dilation = lists
    if len(shape) == 2:
        numbers = numbers[:, None]
        kernel, stride, padding, dilation = (1, *kernel), (1, *stride), (0, *padding), (1, *dilation)
    below, right = padding[0] + stride[0], padding[1] + stride[1]  # ceil mode may need more than the padding
    padded = functional.pad(numbers, (padding[1], right, padding[0], below), value=float(size))
    windows = functional.unfold(padded[:, None], kernel, dilation=dilation, stride=stride)
    sides = zip(padded.shape[1:], kernel, stride, dilation, strict=True)
    grid = [(side - d * (k - 1) - 1) // s + 1 for side, k, s, d in sides]
    kept_grid = (1, *out[1:]) if len(shape) == 2 else out[1:]
    windows = windows.view(shape[0], math.prod(kernel), *grid)[:, :, : kept_grid[0], : kept_grid[1]].movedim(1, -1)
    return windows.reshape(math.prod(out), -1).long()


def _pair(value: Any, length: int) -> tuple[int, ...]:
    if value is None or value == []:
        return ()
    values = [value] if isinstance(value, int) else list(value)
    return tuple(values * length if len(values) == 1 else values)


def _adaptive_max(steps: Steps, call: Call) -> Parts:
    parent, sides = call.traced, call.arguments[1]
    numbers = _positions(parent.shape)
    spans = [_spans(side, out) for side, out in zip(parent.shape[1:], _pair(sides, len(parent.shape) - 1), strict=True)]
    longest = math.prod(max(stop - start for start, stop in span) for span in spans)
    windows = []
    for channel in numbers:
        for row in spans[0]:
            for column in spans[1] if len(spans) > 1 else [None]:
                block = channel[slice(*row)] if column is None else channel[slice(*row), slice(*column)]
                windows.append(functional.pad(block.flatten(), (0, longest - block.numel()), value=numbers.numel()))
    out = (parent.shape[0], *(len(span) for span in spans))
    window = torch.stack(windows).to(steps.like.device)
    return _first_of(call, parent, Maximum(parent.shape, out, window))


def _spans(side: int, out: int) -> list[tuple[int, int]]:
    return [(k * side // out, -(-(k + 1) * side // out)) for k in range(out)]


def _along(steps: Steps, call: Call) -> Maximum:
    """The maximum over dimensions: maxout."""
    parent = call.traced
    dims = call.argument(1, "dim", ())
    dims = [dims] if isinstance(dims, int) else list(dims)
    rank = len(parent.shape) + 1
    dims = sorted(dim % rank for dim in dims)
    if not dims or dims[0] == 0:
        raise call.refusal("which mixes the examples of a batch")
    numbers = _positions(parent.shape)
    other_dims = [k for k in range(len(parent.shape)) if k + 1 not in dims]
    windows = numbers.permute(*other_dims, *(dim - 1 for dim in dims)).reshape(
        math.prod(parent.shape[k] for k in other_dims), math.prod(parent.shape[dim - 1] for dim in dims)
    )
    value = call.node.meta["val"]
    out = tuple((value if isinstance(value, Tensor) else value[0]).shape)[1:]
    return Maximum(parent.shape, out, windows.to(steps.like.device))


def _amax(steps: Steps, call: Call) -> Traced:
    operation = _along(steps, call)
    return steps.add(operation, [call.traced], operation.out_shape)


def _max(steps: Steps, call: Call) -> Traced | Parts:
    """torch.max, along a dimension or of two tensors."""
    if any(isinstance(value, Traced | Tensor) for value in (*call.arguments[1:], *call.keywords.values())):
        return _larger(steps, call)
    return _first_of(call, call.traced, _along(steps, call))


def _first_of(call: Call, parent: Traced, operation: Maximum) -> Parts:
    def get(steps: Steps, number: int) -> Traced:
        if number != 0:
            raise call.refusal("whose positions cannot be bounded")
        return steps.add(operation, [parent], operation.out_shape)

    return Parts(get)


def _larger(steps: Steps, call: Call) -> Traced:
    """torch.maximum: max(x, c) = relu(x - c) + c; of two traced tensors, stacked, then the maximum over the stack."""
    first, second = call.arguments[0], call.argument(1, "other")
    if not isinstance(first, Traced) or not isinstance(second, Traced):
        traced, constant = (first, second) if isinstance(first, Traced) else (second, first)
        above = steps.add(Elementwise(RELU), [scaled(steps, call, traced, 1.0, -constant)], traced.shape)
        return scaled(steps, call, above, 1.0, constant)
    if first.shape != second.shape:
        raise call.refusal("with a broadcast input")
    size, shape = math.prod(first.shape), (2, *first.shape)
    both = Affine(lambda x, y: torch.stack([x, y], dim=1), (first.shape, second.shape), steps.like)
    stacked = steps.add(both, [first, second], shape)
    numbers = torch.arange(size, device=steps.like.device)
    window = torch.stack([numbers, numbers + size], dim=1)
    return steps.add(Maximum(shape, first.shape, window), [stacked], first.shape)


MAXIMUM_TRANSLATIONS: dict[str, Translation] = {
    **dict.fromkeys(("max_pool1d", "max_pool2d"), _pool),
    **dict.fromkeys(("adaptive_max_pool1d", "adaptive_max_pool2d"), _adaptive_max),
    **dict.fromkeys(("amax",), _amax),
    **dict.fromkeys(("max",), _max),
    **dict.fromkeys(("maximum",), _larger),
}
"""Operation name without overload -> how it becomes steps."""
