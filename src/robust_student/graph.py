"""A network as a list of operations that bound propagation understands, traced with torch.export."""

import math
import operator
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import Any, TypeAlias

import torch
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.nn.grad import conv2d_input

from robust_student.activations import ABSOLUTE, GELU, GELU_TANH, RELU, SIGMOID, SILU, TANH, Activation, Kinked
from robust_student.operations import Affine, Elementwise, Maximum, Operation, Shape
from robust_student.tensors import UserError, device_of, evaluating

_BATCH = 5  # examples in the trace: tells the batch from the other dimensions
_CHECKED = 4  # random inputs on which the operations must agree with the network
_TOLERANCE = 1e-3  # of that agreement, relative to the largest logit: float32 arithmetic against float64


@dataclass(frozen=True, eq=False)
class Step:
    """One operation, the earlier steps it reads (0 is the input, k is the k-th step) and the shape it gives."""

    operation: Operation
    parents: tuple[int, ...]
    shape: Shape


@dataclass(frozen=True, eq=False)
class Layers:
    """A network as operations with their weights in place; a step's number is its position plus one."""

    shape: Shape
    """Of one input."""
    steps: tuple[Step, ...]

    def __call__(self, inputs: Tensor) -> Tensor:
        """Logits, computed step by step."""
        values = [inputs]
        for step in self.steps:
            values.append(step.operation.apply(*(values[k] for k in step.parents)))
        return values[-1]


@dataclass(frozen=True, eq=False)
class _Traced:
    """A tensor that depends on the input: which step gives it, and its shape without the batch."""

    number: int
    shape: Shape


@dataclass(frozen=True, eq=False)
class Graph:
    """The structure of a network in evaluation mode; its weights are read each time `layers` is called."""

    network: nn.Module
    program: torch.export.ExportedProgram
    shape: Shape

    def layers(self, dtype: torch.dtype | None = None) -> Layers:
        """The operations with the network's present weights, in `dtype` (None: as they are, gradients attached).

        Raises UserError that names the first operation that cannot be bounded, and where it stands in the network.
        """
        return _Builder(self, dtype).build()


def trace(network: nn.Module, shape: Sequence[int]) -> Graph:
    """Record what `network` computes in evaluation mode on inputs of `shape`.

    Raises UserError where it cannot be traced (control flow that depends on values), where an operation is not among
    those that can be bounded, and where the operations disagree with the network.
    """
    example = torch.zeros((_BATCH, *shape), device=device_of(network), dtype=dtype_of(network))
    with evaluating(network), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.export warns of its own future
        try:
            program = torch.export.export(network, (example,))
        except Exception as error:  # whatever a user's forward may raise
            reason = str(error).strip().splitlines()[0]
            raise UserError(f"certify: the network cannot be traced ({reason}); {SMOOTHING}") from None
    graph = Graph(network, program, tuple(shape))
    _check(graph, example)
    return graph


SMOOTHING = "randomized smoothing works with any network (smoothing.sigma)"
"""What every refusal offers."""


def dtype_of(network: nn.Module) -> torch.dtype:
    """Floating type of a network's parameters and buffers; the default one where it has none."""
    tensors = chain(network.parameters(), network.buffers())
    return next((tensor.dtype for tensor in tensors if tensor.is_floating_point()), torch.get_default_dtype())


def _check(graph: Graph, like: Tensor) -> None:
    points = torch.rand((_CHECKED, *graph.shape), generator=torch.Generator().manual_seed(0)).to(like)
    with torch.no_grad(), evaluating(graph.network):
        expected = graph.network(points)
        try:
            found = graph.layers()(points)
        except (RuntimeError, TypeError, IndexError) as error:
            raise UserError(f"certify: the traced network fails ({str(error).splitlines()[0]}); {SMOOTHING}") from None
    scale = float(expected.abs().amax()) + 1e-12
    if expected.shape != found.shape or not float((expected - found).abs().amax()) <= _TOLERANCE * scale:
        raise UserError(f"certify: the traced network disagrees with the network itself; {SMOOTHING}")


class _Builder:
    """Walks a traced program once: constants are computed, what depends on the input becomes steps."""

    def __init__(self, graph: Graph, dtype: torch.dtype | None) -> None:
        self.graph, self.dtype = graph, dtype
        self.steps: list[Step] = []
        self.values: dict[fx.Node, Any] = {}
        state: dict[str, Tensor] = dict(graph.network.named_parameters(remove_duplicate=False))
        state |= dict(graph.network.named_buffers(remove_duplicate=False))
        signature = graph.program.graph_signature
        stored = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        self.constants = {name: state[target] for name, target in stored.items()}
        lifted = signature.inputs_to_lifted_tensor_constants
        self.constants |= {name: graph.program.constants[target] for name, target in lifted.items()}
        self.like = torch.zeros((), dtype=dtype or dtype_of(graph.network), device=device_of(graph.network))

    def build(self) -> Layers:
        nodes = list(self.graph.program.graph.nodes)
        needed = _needed(nodes)
        for node in nodes:
            if node not in needed:
                continue
            if node.op == "placeholder":
                self.values[node] = self._placeholder(node)
            elif node.op == "call_function":
                self.values[node] = self._call(node)
        (result,) = nodes[-1].args[0]
        output = self.values[result]
        if not isinstance(output, _Traced):
            raise UserError("certify: the network's output does not depend on its input")
        if output.number != len(self.steps):
            self.steps.append(Step(self._reshape(output, output.shape), (output.number,), output.shape))
        return Layers(self.graph.shape, tuple(self.steps))

    def _placeholder(self, node: fx.Node) -> Any:
        if node.name not in self.constants:
            return _Traced(0, self.graph.shape)
        value = self.constants[node.name]
        return value.to(self.dtype) if self.dtype is not None and value.is_floating_point() else value

    def _call(self, node: fx.Node) -> Any:
        arguments = fx.map_arg(node.args, lambda n: self.values[n])
        keywords = fx.map_arg(node.kwargs, lambda n: self.values[n])
        if not any(isinstance(self.values[parent], _Traced | _Parts) for parent in node.all_input_nodes):
            return node.target(*arguments, **keywords)  # type: ignore[operator]
        if node.target is operator.getitem:
            several: Any = arguments[0]
            return several.get(self, arguments[1])
        name = str(getattr(node.target, "_opname", node.target))
        build = _BUILDERS.get(name)
        call = _Call(node, name, arguments, keywords)
        if build is None:
            raise call.refusal()
        return build(self, call)

    def add(self, operation: Operation, parents: Sequence[_Traced], shape: Sequence[int]) -> _Traced:
        self.steps.append(Step(operation, tuple(parent.number for parent in parents), tuple(shape)))
        return _Traced(len(self.steps), tuple(shape))

    def affine(
        self,
        call: "_Call",
        apply: Callable[..., Tensor],
        parents: Sequence[_Traced],
        absolute: Callable[..., Tensor] | None = None,
        adjoint: Callable[[Tensor], Tensor] | None = None,
        spectral: Callable[[], float] | None = None,
        mixes: bool = True,
    ) -> _Traced:
        shapes = tuple(parent.shape for parent in parents)
        return self.add(Affine(apply, shapes, self.like, absolute, adjoint, spectral, mixes), parents, call.shape())

    def _reshape(self, parent: _Traced, shape: Shape) -> Affine:
        return Affine(lambda x: x.reshape(len(x), *shape), (parent.shape,), self.like)


@dataclass(frozen=True, eq=False)
class _Call:
    """One operation of the trace with its arguments; tensors that depend on the input are `_Traced`."""

    node: fx.Node
    name: str
    arguments: tuple[Any, ...]
    keywords: Mapping[str, Any]

    def argument(self, position: int, name: str, default: Any = None) -> Any:
        """An argument by position or name."""
        if position < len(self.arguments):
            return self.arguments[position]
        return self.keywords.get(name, default)

    @property
    def traced(self) -> _Traced:
        """The first argument, which must be the only one that depends on the input."""
        rest = [*self.arguments[1:], *self.keywords.values()]
        if not isinstance(self.arguments[0], _Traced) or any(isinstance(value, _Traced) for value in rest):
            raise self.refusal()
        return self.arguments[0]

    def shape(self) -> Shape:
        """Shape of the result without the batch; an operation that moves the batch is refused."""
        shape = tuple(self.node.meta["val"].shape)
        if not shape or shape[0] != _BATCH:
            raise self.refusal("which mixes the examples of a batch")
        return shape[1:]

    def run(self, x: Any) -> Any:
        """The operation on other values in place of its first argument."""
        return self.node.target(x, *self.arguments[1:], **self.keywords)  # type: ignore[operator]

    def refusal(self, why: str = "which has no certified bound here") -> UserError:
        """Names the operation and the module it stands in."""
        stack = self.node.meta.get("nn_module_stack") or {}
        path, kind = list(stack.values())[-1] if stack else ("", "")
        kind = kind if isinstance(kind, str) else getattr(kind, "__name__", "")
        place = f" in module '{path}' ({kind.rpartition('.')[2]})" if path else ""
        return UserError(f"certify: the network uses '{self.name}'{place}, {why}; {SMOOTHING}")


@dataclass(frozen=True, eq=False)
class _Parts:
    """Several results of one operation, of which `get` builds the one that is used."""

    get: Callable[[_Builder, int], _Traced]


_Build: TypeAlias = Callable[[_Builder, _Call], Any]


def _needed(nodes: Sequence[fx.Node]) -> set[fx.Node]:
    """Nodes on which the output depends."""
    needed: set[fx.Node] = set()
    waiting = [nodes[-1]]
    while waiting:
        node = waiting.pop()
        if node not in needed:
            needed.add(node)
            waiting += node.all_input_nodes
    return needed


def _same(builder: _Builder, call: _Call) -> _Traced:
    return call.traced


def _dropout(builder: _Builder, call: _Call) -> _Traced:
    if call.argument(2, "train", False):
        raise call.refusal("which is random in training mode")
    return call.traced


def _reshaped(builder: _Builder, call: _Call) -> _Traced:
    shape = call.shape()
    parent = call.arguments[0]
    if not isinstance(parent, _Traced):
        raise call.refusal()
    return builder.affine(call, lambda x: x.reshape(len(x), *shape), [parent], mixes=False)


def _copied(builder: _Builder, call: _Call) -> _Traced:
    """Operations that move, drop or repeat elements, possibly with constants in between."""
    return builder.affine(call, call.run, [call.traced], mixes=False)


def _averaged(builder: _Builder, call: _Call) -> _Traced:
    """Operations that add up or average elements."""
    return builder.affine(call, call.run, [call.traced])


def _linear(builder: _Builder, call: _Call) -> _Traced:
    weight, bias = call.argument(1, "weight"), call.argument(2, "bias")
    return builder.affine(
        call,
        lambda x: functional.linear(x, weight, bias),
        [call.traced],
        lambda r: functional.linear(r, weight.abs()),
        lambda rows: rows @ weight,
        lambda: float(torch.linalg.matrix_norm(weight.double(), 2)) * (1 + 1e-9),
    )


def _matmul(builder: _Builder, call: _Call) -> _Traced:
    other = call.argument(1, "other")
    parent = call.traced
    if not isinstance(other, Tensor) or other.dim() != 2:
        raise call.refusal()
    return builder.affine(call, lambda x: x @ other, [parent], lambda r: r @ other.abs(), lambda rows: rows @ other.T)


def _addmm(builder: _Builder, call: _Call) -> _Traced:
    bias, parent, weight = call.arguments[:3]
    if not isinstance(parent, _Traced) or isinstance(weight, _Traced) or isinstance(bias, _Traced) or call.keywords:
        raise call.refusal()
    return builder.affine(
        call,
        lambda x: x @ weight + bias,
        [parent],
        lambda r: r @ weight.abs(),
        lambda rows: rows @ weight.T,
    )


def _convolution(builder: _Builder, call: _Call) -> _Traced:
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

    return builder.affine(
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


def _batch_norm(builder: _Builder, call: _Call) -> _Traced:
    weight, bias, mean, variance = call.arguments[1:5]
    if call.argument(5, "training") or mean is None:
        raise call.refusal("which couples the examples of a batch (no running statistics)")
    scale = torch.rsqrt(variance + call.argument(7, "eps"))
    scale = scale if weight is None else scale * weight
    offset = -mean * scale if bias is None else bias - mean * scale
    form = (1, -1, *[1] * (len(call.traced.shape) - 1))
    return _scaled(builder, call, call.traced, scale.view(form), offset.view(form))


def _scaled(builder: _Builder, call: _Call, parent: _Traced, scale: Any, offset: Any = 0.0) -> _Traced:
    shape, size = call.shape(), scale.abs() if isinstance(scale, Tensor) else abs(scale)
    if shape != parent.shape:
        raise call.refusal("with a broadcast input")
    return builder.affine(call, lambda x: x * scale + offset, [parent], lambda r: r * size, mixes=False)


def _add(sign: float) -> _Build:
    def build(builder: _Builder, call: _Call) -> _Traced:
        first, second = call.arguments[:2]
        factor = sign * call.argument(2, "alpha", 1)
        if isinstance(first, _Traced) and isinstance(second, _Traced):
            if first.shape != second.shape:
                raise call.refusal("with a broadcast input")
            return builder.affine(
                call,
                lambda x, y: x + factor * y,
                [first, second],
                lambda r, s: r + abs(factor) * s,
            )
        if isinstance(first, _Traced):
            return _scaled(builder, call, first, 1.0, factor * second)
        return _scaled(builder, call, second, factor, first)

    return build


def _rsub(builder: _Builder, call: _Call) -> _Traced:
    return _scaled(builder, call, call.traced, -call.argument(2, "alpha", 1), call.arguments[1])


def _multiply(builder: _Builder, call: _Call) -> _Traced:
    first, second = call.arguments[:2]
    if isinstance(first, _Traced) and isinstance(second, _Traced):
        raise call.refusal("of two tensors that both depend on the input")
    return _scaled(builder, call, *((first, second) if isinstance(first, _Traced) else (second, first)))


def _divide(builder: _Builder, call: _Call) -> _Traced:
    return _scaled(builder, call, call.traced, 1.0 / call.arguments[1])


def _negate(builder: _Builder, call: _Call) -> _Traced:
    return _scaled(builder, call, call.traced, -1.0)


def _concatenate(builder: _Builder, call: _Call) -> _Traced:
    parts, dim = call.arguments[0], call.argument(1, "dim", 0)
    call.shape()
    traced = [part for part in parts if isinstance(part, _Traced)]

    def apply(*values: Tensor) -> Tensor:
        rest = iter(values)
        batch = len(values[0])
        return torch.cat(
            [next(rest) if isinstance(part, _Traced) else part.expand(batch, *part.shape[1:]) for part in parts], dim
        )

    return builder.affine(call, apply, traced)


def _split(builder: _Builder, call: _Call) -> _Parts:
    parent, dim = call.traced, call.argument(2, "dim", 0)
    if dim % (len(parent.shape) + 1) == 0:
        raise call.refusal("which mixes the examples of a batch")

    def get(builder: _Builder, number: int) -> _Traced:
        def part(x: Tensor) -> Tensor:
            return call.run(x)[number]

        shape = tuple(call.node.meta["val"][number].shape)[1:]
        return builder.add(Affine(part, (parent.shape,), builder.like), [parent], shape)

    return _Parts(get)


def _elementwise(function: Activation) -> _Build:
    return lambda builder, call: builder.add(Elementwise(function), [call.traced], call.shape())


def _leaky(builder: _Builder, call: _Call) -> _Traced:
    slope = float(call.argument(1, "negative_slope", 0.01))
    return builder.add(Elementwise(Kinked(slope)), [call.traced], call.shape())


def _gelu(builder: _Builder, call: _Call) -> _Traced:
    function = GELU_TANH if call.argument(1, "approximate", "none") == "tanh" else GELU
    return builder.add(Elementwise(function), [call.traced], call.shape())


def _positions(shape: Shape) -> Tensor:
    """The number of every element of one input, shaped as that input."""
    return torch.arange(math.prod(shape)).view(shape)


def _pool(builder: _Builder, call: _Call) -> _Traced:
    parent, out = call.traced, call.shape()
    lists = (call.argument(1, "kernel_size"), call.argument(2, "stride"), call.argument(3, "padding", 0))
    both = len(parent.shape) - 1  # spatial dimensions: 1 or 2
    kernel, stride, padding, dilation = (_pair(v, both) for v in (*lists, call.argument(4, "dilation", 1)))
    window = _pooling_windows(parent.shape, out, (kernel, stride or kernel, padding, dilation))
    return builder.add(Maximum(parent.shape, out, window.to(builder.like.device), call.run), [parent], out)


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
    wanted = (1, *out[1:]) if len(shape) == 2 else out[1:]
    windows = windows.view(shape[0], math.prod(kernel), *grid)[:, :, : wanted[0], : wanted[1]].movedim(1, -1)
    return windows.reshape(math.prod(out), -1).long()


def _pair(value: Any, length: int) -> tuple[int, ...]:
    if value is None or value == []:
        return ()
    values = [value] if isinstance(value, int) else list(value)
    return tuple(values * length if len(values) == 1 else values)


def _adaptive_max(builder: _Builder, call: _Call) -> _Parts:
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
    window = torch.stack(windows).to(builder.like.device)
    return _first_of(call, parent, Maximum(parent.shape, out, window))


def _spans(side: int, out: int) -> list[tuple[int, int]]:
    return [(k * side // out, -(-(k + 1) * side // out)) for k in range(out)]


def _along(builder: _Builder, call: _Call) -> Maximum:
    """The maximum over dimensions: maxout."""
    parent = call.traced
    dims = call.argument(1, "dim", ())
    dims = [dims] if isinstance(dims, int) else list(dims)
    rank = len(parent.shape) + 1
    dims = sorted(dim % rank for dim in dims)
    if not dims or dims[0] == 0:
        raise call.refusal("which mixes the examples of a batch")
    numbers = _positions(parent.shape)
    kept = [k for k in range(len(parent.shape)) if k + 1 not in dims]
    windows = numbers.permute(*kept, *(dim - 1 for dim in dims)).reshape(
        math.prod(parent.shape[k] for k in kept), math.prod(parent.shape[dim - 1] for dim in dims)
    )
    value = call.node.meta["val"]
    out = tuple((value if isinstance(value, Tensor) else value[0]).shape)[1:]
    return Maximum(parent.shape, out, windows.to(builder.like.device))


def _amax(builder: _Builder, call: _Call) -> _Traced:
    operation = _along(builder, call)
    return builder.add(operation, [call.traced], operation.out_shape)


def _max_dim(builder: _Builder, call: _Call) -> _Parts:
    return _first_of(call, call.traced, _along(builder, call))


def _first_of(call: _Call, parent: _Traced, operation: Maximum) -> _Parts:
    def get(builder: _Builder, number: int) -> _Traced:
        if number != 0:
            raise call.refusal("whose positions cannot be bounded")
        return builder.add(operation, [parent], operation.out_shape)

    return _Parts(get)


def _larger(builder: _Builder, call: _Call) -> _Traced:
    """torch.maximum of two traced tensors: stacked, then the maximum over the stack."""
    first, second = call.arguments[:2]
    if not isinstance(first, _Traced) or not isinstance(second, _Traced) or first.shape != second.shape:
        raise call.refusal()
    size, shape = math.prod(first.shape), (2, *first.shape)
    both = Affine(lambda x, y: torch.stack([x, y], dim=1), (first.shape, second.shape), builder.like)
    stacked = builder.add(both, [first, second], shape)
    numbers = torch.arange(size, device=builder.like.device)
    window = torch.stack([numbers, numbers + size], dim=1)
    return builder.add(Maximum(shape, first.shape, window), [stacked], first.shape)


_BUILDERS: dict[str, _Build] = {
    **dict.fromkeys(("alias", "clone", "contiguous", "detach", "detach_", "to.dtype", "lift_fresh_copy"), _same),
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
    **dict.fromkeys(("abs",), _elementwise(ABSOLUTE)),
    **dict.fromkeys(("tanh", "tanh_"), _elementwise(TANH)),
    **dict.fromkeys(("sigmoid", "sigmoid_"), _elementwise(SIGMOID)),
    **dict.fromkeys(("silu", "silu_"), _elementwise(SILU)),
    **dict.fromkeys(("gelu",), _gelu),
    **dict.fromkeys(("max_pool1d", "max_pool2d"), _pool),
    **dict.fromkeys(("adaptive_max_pool1d", "adaptive_max_pool2d"), _adaptive_max),
    **dict.fromkeys(("amax",), _amax),
    **dict.fromkeys(("max",), _max_dim),
    **dict.fromkeys(("maximum",), _larger),
}
"""Operation name without overload -> how it becomes steps."""
