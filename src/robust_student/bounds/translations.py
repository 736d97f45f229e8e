"""What each operation of a traced network becomes: an affine, element-wise or maximum step, or a refusal."""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.grad import conv2d_input

from robust_student.bounds.activations import ABSOLUTE, GELU, GELU_TANH, RELU, SIGMOID, SILU, TANH, Activation, Kinked
from robust_student.bounds.layers import Call, Parts, Steps, Traced
from robust_student.bounds.operations import Affine, Elementwise, Maximum
from robust_student.core.tensors import Shape

Translation: TypeAlias = Callable[[Steps, Call], Any]
"""Adds the steps of one call and returns the value it gives: `Traced`, or `Parts` where it gives several."""


def _same(steps: Steps, call: Call) -> Traced:
    return call.traced


def _converted(steps: Steps, call: Call) -> Traced:
    """A dtype at least as precise as the network's own; certificates do not allow for the rounding of others."""
    dtype = call.node.meta["val"].dtype
    if not dtype.is_floating_point or torch.finfo(dtype).eps > torch.finfo(steps.own).eps:
        raise call.refusal("which rounds")
    return call.traced


def _dropout(steps: Steps, call: Call) -> Traced:
    if call.argument(2, "train", False):
        raise call.refusal("which is random in training mode")
    return call.traced


def _reshaped(steps: Steps, call: Call) -> Traced:
    shape = call.shape()
    parent = call.arguments[0]
    if not isinstance(parent, Traced):
        raise call.refusal()
    return steps.affine(call, lambda x: x.reshape(len(x), *shape), [parent], mixes=False)


def _copied(steps: Steps, call: Call) -> Traced:
    """Operations that move, drop or repeat elements, possibly with constants in between."""
    return steps.affine(call, call.run, [call.traced], mixes=False)


def _averaged(steps: Steps, call: Call) -> Traced:
    """Operations that add up or average elements: no weight of theirs is negative."""
    if call.name == "avg_pool2d" and (call.argument(6, "divisor_override", None) or 1) < 0:
        raise call.refusal("with a negative divisor")
    return steps.affine(call, call.run, [call.traced])


def _linear(steps: Steps, call: Call) -> Traced:
    weight, bias = call.argument(1, "weight"), call.argument(2, "bias")
    return steps.affine(
        call,
        lambda x: functional.linear(x, weight, bias),
        [call.traced],
        lambda r: functional.linear(r, weight.abs()),
        lambda rows: rows @ weight,
        lambda: float(torch.linalg.matrix_norm(weight.double(), 2)) * (1 + 1e-9),
    )


def _matmul(steps: Steps, call: Call) -> Traced:
    other = call.argument(1, "other")
    parent = call.traced
    if not isinstance(other, Tensor) or other.dim() != 2:
        raise call.refusal()
    return steps.affine(call, lambda x: x @ other, [parent], lambda r: r @ other.abs(), lambda rows: rows @ other.T)


def _addmm(steps: Steps, call: Call) -> Traced:
    bias, parent, weight = call.arguments[:3]
    if not isinstance(parent, Traced) or isinstance(weight, Traced) or isinstance(bias, Traced) or call.keywords:
        raise call.refusal()
    return steps.affine(
        call,
        lambda x: x @ weight + bias,
        [parent],
        lambda r: r @ weight.abs(),
        lambda rows: rows @ weight.T,
    )


def _convolution(steps: Steps, call: Call) -> Traced:
    parent, weight, bias = call.traced, call.argument(1, "weight"), call.argument(2, "bias")
    rest = call.arguments[3:]

    def convolve(x: Tensor, kernel: Tensor, offset: Tensor | None) -> Tensor:
        return call.node.target(x, kernel, offset, *rest, **keywords)  # type: ignore[operator]

    keywords = {name: value for name, value in call.keywords.items() if name not in ("weight", "bias")}
    adjoint = None
    if call.name == "conv2d" and not keywords and not any(isinstance(value, str) for value in rest):
        defaults: tuple[Any, ...] = ((1, 1), (0, 0), (1, 1), 1)
        settings = (*rest, *defaults[len(rest) :])

        def adjoint(rows: Tensor) -> Tensor:
            return conv2d_input([len(rows), *parent.shape], weight, rows, *settings)  # type: ignore[no-untyped-call]

    return steps.affine(
        call,
        lambda x: convolve(x, weight, bias),
        [parent],
        lambda r: convolve(r, weight.abs(), None),
        adjoint,
        lambda: _unfolded_norm(weight, call.argument(6, "groups", 1)) if weight.dim() == 4 else math.inf,
    )


def _unfolded_norm(weight: Tensor, groups: int) -> float:
    """sqrt(k_h k_w) times the least spectral norm of four unfoldings bounds that of a convolution.

    Singla & Feizi 2021 ("Fantastic Four"), theorem 1, for circular padding; zero padding and a stride choose rows and
    columns of such a matrix, which cannot raise its norm.
    """
    best = 0.0
    for part in weight.double().chunk(groups):
        out, inputs, height, width = part.shape
        unfoldings = (
            part.permute(0, 2, 1, 3).reshape(out * height, inputs * width),
            part.permute(0, 3, 1, 2).reshape(out * width, inputs * height),
            part.reshape(out, inputs * height * width),
            part.permute(0, 2, 3, 1).reshape(out * height * width, inputs),
        )
        least = min(float(torch.linalg.matrix_norm(matrix, 2)) for matrix in unfoldings)
        best = max(best, math.sqrt(height * width) * least)
    return best * (1 + 1e-9)


def _batch_norm(steps: Steps, call: Call) -> Traced:
    weight, bias, mean, variance = call.arguments[1:5]
    if call.argument(5, "training") or mean is None:
        raise call.refusal("which couples the examples of a batch (no running statistics)")
    scale = torch.rsqrt(variance + call.argument(7, "eps"))
    scale = scale if weight is None else scale * weight
    offset = -mean * scale if bias is None else bias - mean * scale
    form = (1, -1, *[1] * (len(call.traced.shape) - 1))
    return _scaled(steps, call, call.traced, scale.view(form), offset.view(form))


def _scaled(steps: Steps, call: Call, parent: Traced, scale: Any, offset: Any = 0.0) -> Traced:
    shape, size = call.shape(), scale.abs() if isinstance(scale, Tensor) else abs(scale)
    if shape != parent.shape:
        raise call.refusal("with a broadcast input")
    return steps.affine(call, lambda x: x * scale + offset, [parent], lambda r: r * size, mixes=False)


def _add(sign: float) -> Translation:
    def build(steps: Steps, call: Call) -> Traced:
        first, second = call.arguments[:2]
        factor = sign * call.argument(2, "alpha", 1)
        if isinstance(first, Traced) and isinstance(second, Traced):
            if first.shape != second.shape:
                raise call.refusal("with a broadcast input")
            return steps.affine(
                call,
                lambda x, y: x + factor * y,
                [first, second],
                lambda r, s: r + abs(factor) * s,
            )
        if isinstance(first, Traced):
            return _scaled(steps, call, first, 1.0, factor * second)
        return _scaled(steps, call, second, factor, first)

    return build


def _rsub(steps: Steps, call: Call) -> Traced:
    return _scaled(steps, call, call.traced, -call.argument(2, "alpha", 1), call.arguments[1])


def _multiply(steps: Steps, call: Call) -> Traced:
    first, second = call.arguments[:2]
    if isinstance(first, Traced) and isinstance(second, Traced):
        raise call.refusal("of two tensors that both depend on the input")
    return _scaled(steps, call, *((first, second) if isinstance(first, Traced) else (second, first)))


def _divide(steps: Steps, call: Call) -> Traced:
    if call.argument(2, "rounding_mode") is not None:
        raise call.refusal("which rounds")
    return _scaled(steps, call, call.traced, 1.0 / call.arguments[1])


def _negate(steps: Steps, call: Call) -> Traced:
    return _scaled(steps, call, call.traced, -1.0)


def _concatenate(steps: Steps, call: Call) -> Traced:
    parts, dim = call.arguments[0], call.argument(1, "dim", 0)
    call.shape()
    traced = [part for part in parts if isinstance(part, Traced)]
    if any(bool((part != part[:1]).any()) for part in parts if not isinstance(part, Traced)):
        raise call.refusal("with a constant that differs between the examples")

    def apply(*values: Tensor) -> Tensor:
        rest = iter(values)
        batch = len(values[0])
        return torch.cat(
            [next(rest) if isinstance(part, Traced) else part[:1].expand(batch, *part.shape[1:]) for part in parts],
            dim,
        )

    return steps.affine(call, apply, traced)


def _split(steps: Steps, call: Call) -> Parts:
    parent, dim = call.traced, call.argument(1 if call.name == "unbind" else 2, "dim", 0)
    if dim % (len(parent.shape) + 1) == 0:
        raise call.refusal("which mixes the examples of a batch")

    def get(steps: Steps, number: int) -> Traced:
        def part(x: Tensor) -> Tensor:
            return call.run(x)[number]

        shape = tuple(call.node.meta["val"][number].shape)[1:]
        return steps.add(Affine(part, (parent.shape,), steps.like), [parent], shape)

    return Parts(get)


def _elementwise(function: Activation) -> Translation:
    return lambda steps, call: steps.add(Elementwise(function), [call.traced], call.shape())


def _leaky(steps: Steps, call: Call) -> Traced:
    slope = float(call.argument(1, "negative_slope", 0.01))
    return steps.add(Elementwise(Kinked(slope)), [call.traced], call.shape())


def _gelu(steps: Steps, call: Call) -> Traced:
    function = GELU_TANH if call.argument(1, "approximate", "none") == "tanh" else GELU
    return steps.add(Elementwise(function), [call.traced], call.shape())


def _clamped(steps: Steps, call: Call) -> Traced:
    """low + relu(x - low) - relu(x - high)."""
    low, high = call.argument(1, "min_val", -1.0), call.argument(2, "max_val", 1.0)
    above = [_scaled(steps, call, call.traced, 1.0, -end) for end in (low, high)]
    parts = [steps.add(Elementwise(RELU), [part], call.shape()) for part in above]
    return steps.affine(call, lambda x, y: x - y + low, parts, lambda r, s: r + s)


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
        above = steps.add(Elementwise(RELU), [_scaled(steps, call, traced, 1.0, -constant)], traced.shape)
        return _scaled(steps, call, above, 1.0, constant)
    if first.shape != second.shape:
        raise call.refusal("with a broadcast input")
    size, shape = math.prod(first.shape), (2, *first.shape)
    both = Affine(lambda x, y: torch.stack([x, y], dim=1), (first.shape, second.shape), steps.like)
    stacked = steps.add(both, [first, second], shape)
    numbers = torch.arange(size, device=steps.like.device)
    window = torch.stack([numbers, numbers + size], dim=1)
    return steps.add(Maximum(shape, first.shape, window), [stacked], first.shape)


TRANSLATIONS: dict[str, Translation] = {
    **dict.fromkeys(("alias", "clone", "contiguous", "detach", "detach_", "lift_fresh_copy"), _same),
    **dict.fromkeys(("to",), _converted),
    **dict.fromkeys(("dropout", "feature_dropout", "dropout_", "native_dropout"), _dropout),
    **dict.fromkeys(("view", "reshape", "_unsafe_view", "flatten", "unflatten", "squeeze", "unsqueeze"), _reshaped),
    **dict.fromkeys(("view_as", "reshape_as"), _reshaped),
    **dict.fromkeys(("permute", "transpose", "slice", "select", "index_select", "pad", "constant_pad_nd"), _copied),
    **dict.fromkeys(("mean", "sum", "avg_pool1d", "avg_pool2d"), _averaged),
    **dict.fromkeys(("adaptive_avg_pool1d", "adaptive_avg_pool2d"), _averaged),
    **dict.fromkeys(("linear",), _linear),
    **dict.fromkeys(("matmul", "mm"), _matmul),
    **dict.fromkeys(("addmm",), _addmm),
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), _convolution),
    **dict.fromkeys(("batch_norm", "_native_batch_norm_legit_no_training"), _batch_norm),
    **dict.fromkeys(("add", "add_"), _add(1.0)),
    **dict.fromkeys(("sub", "sub_"), _add(-1.0)),
    **dict.fromkeys(("rsub",), _rsub),
    **dict.fromkeys(("mul", "mul_"), _multiply),
    **dict.fromkeys(("div", "div_"), _divide),
    **dict.fromkeys(("neg",), _negate),
    **dict.fromkeys(("cat", "concat", "concatenate"), _concatenate),
    **dict.fromkeys(("chunk", "split", "split_with_sizes", "unbind"), _split),
    **dict.fromkeys(("relu", "relu_"), _elementwise(RELU)),
    **dict.fromkeys(("leaky_relu", "leaky_relu_"), _leaky),
    **dict.fromkeys(("hardtanh", "hardtanh_"), _clamped),
    **dict.fromkeys(("abs",), _elementwise(ABSOLUTE)),
    **dict.fromkeys(("tanh", "tanh_"), _elementwise(TANH)),
    **dict.fromkeys(("sigmoid", "sigmoid_"), _elementwise(SIGMOID)),
    **dict.fromkeys(("silu", "silu_"), _elementwise(SILU)),
    **dict.fromkeys(("gelu",), _gelu),
    **dict.fromkeys(("max_pool1d", "max_pool2d"), _pool),
    **dict.fromkeys(("adaptive_max_pool1d", "adaptive_max_pool2d"), _adaptive_max),
    **dict.fromkeys(("amax",), _amax),
    **dict.fromkeys(("max",), _max),
    **dict.fromkeys(("maximum",), _larger),
}
"""Operation name without overload -> how it becomes steps."""
