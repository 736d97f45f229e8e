"""What calls that are affine in their input become: linear layers, convolutions, sums, averages, moved elements."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.grad import conv2d_input

from robust_student.bounds.layers import Call, Parts, Steps, Traced, Translation
from robust_student.bounds.operations import Affine


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
    return scaled(steps, call, call.traced, scale.view(form), offset.view(form))


def scaled(steps: Steps, call: Call, parent: Traced, scale: Any, offset: Any = 0.0) -> Traced:
    """The steps of `scale * parent + offset`."""
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
            return scaled(steps, call, first, 1.0, factor * second)
        return scaled(steps, call, second, factor, first)

    return build


def _rsub(steps: Steps, call: Call) -> Traced:
    return scaled(steps, call, call.traced, -call.argument(2, "alpha", 1), call.arguments[1])


def _multiply(steps: Steps, call: Call) -> Traced:
    first, second = call.arguments[:2]
    if isinstance(first, Traced) and isinstance(second, Traced):
        raise call.refusal("of two tensors that both depend on the input")
    return scaled(steps, call, *((first, second) if isinstance(first, Traced) else (second, first)))


def _divide(steps: Steps, call: Call) -> Traced:
    if call.argument(2, "rounding_mode") is not None:
        raise call.refusal("which rounds")
    return scaled(steps, call, call.traced, 1.0 / call.arguments[1])


def _negate(steps: Steps, call: Call) -> Traced:
    return scaled(steps, call, call.traced, -1.0)


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


AFFINE_TRANSLATIONS: dict[str, Translation] = {
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
}
"""Operation name without overload -> how it becomes steps."""
