"""A network as a list of operations that bound propagation understands, traced with torch.export."""

import io
import logging
import operator
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from robust_student.bounds.layers import SMOOTHING, TRACED_BATCH, Call, Layers, Parts, Steps, Traced
from robust_student.bounds.operations import Affine
from robust_student.bounds.translations import TRANSLATIONS
from robust_student.core.errors import UserError
from robust_student.core.module_state import device_of, dtype_of, evaluating
from robust_student.core.tensors import Shape

_ROUNDING = {"floor", "ceil", "round", "trunc", "fix", "frac", "remainder", "fmod", "floor_divide", "sign"}
_CHECKED = 4  # random inputs on which the operations must agree with the network
_TOLERANCE = 1e-3  # of that agreement, relative to the largest logit: float32 arithmetic against float64


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
        return _Walk(self, dtype).build()


def trace(network: nn.Module, shape: Sequence[int]) -> Graph:
    """Record what `network` computes in evaluation mode on inputs of `shape`.

    Raises UserError where it cannot be traced (control flow that depends on values), where an operation is not among
    those that can be bounded, and where the operations disagree with the network.
    """
    example = torch.zeros((TRACED_BATCH, *shape), device=device_of(network), dtype=dtype_of(network))
    with evaluating(network), _silence():
        try:
            program = torch.export.export(network, (example,))
        except Exception as error:  # whatever a user's forward may raise
            raise UserError(f"certify: the network cannot be traced ({_reason(error)}); {SMOOTHING}") from None
    graph = Graph(network, program, tuple(shape))
    _check(graph, example)
    return graph


@contextmanager
def _silence() -> Iterator[None]:
    """Without torch.export's warnings of its own future, and the program it prints when a network cannot be traced."""
    threshold = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(threshold)


def _check(graph: Graph, like: Tensor) -> None:
    points = torch.randn((_CHECKED, *graph.shape), generator=torch.Generator().manual_seed(0)).to(like)
    with torch.no_grad(), evaluating(graph.network):
        try:
            layers = graph.layers()
            expected = graph.network(points)
            # One by one: no example may depend on another.
            traced = torch.cat([layers(point) for point in torch.split(points, 1)])
            if points.device.type != "mps":  # certificates are computed in float64
                precise = graph.layers(torch.float64)
                traced = torch.cat([traced, torch.cat([precise(point.double()) for point in torch.split(points, 1)])])
                expected = torch.cat([expected, expected])
        except (RuntimeError, TypeError, IndexError) as error:
            raise UserError(f"certify: the traced network fails ({_reason(error)}); {SMOOTHING}") from None
    scale = float(expected.abs().amax()) + 1e-12
    if expected.shape != traced.shape or not float((expected - traced).abs().amax()) <= _TOLERANCE * scale:
        raise UserError(f"certify: the traced network disagrees with the network itself; {SMOOTHING}")


def _reason(error: Exception) -> str:
    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    return "what it computes depends on the values of the input" if "data-dependent" in first else first


class _Walk:
    """Walks a traced program once: constants are computed, what depends on the input becomes steps."""

    def __init__(self, graph: Graph, dtype: torch.dtype | None) -> None:
        self.graph, self.dtype = graph, dtype
        self.values: dict[fx.Node, Any] = {}
        state: dict[str, Tensor] = dict(graph.network.named_parameters(remove_duplicate=False))
        state |= dict(graph.network.named_buffers(remove_duplicate=False))
        signature = graph.program.graph_signature
        stored = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        self.constants = {name: state[target] for name, target in stored.items()}
        lifted = signature.inputs_to_lifted_tensor_constants
        self.constants |= {name: graph.program.constants[target] for name, target in lifted.items()}
        own = dtype_of(graph.network)
        self.steps = Steps(torch.zeros((), dtype=dtype or own, device=device_of(graph.network)), own)

    def build(self) -> Layers:
        nodes = list(self.graph.program.graph.nodes)
        needed = _needed(nodes)
        for node in nodes:
            if _overwrites(node):  # needed or not: the trace hides what it changes
                raise Call(node, _name(node), (), {}).refusal("in place, on a tensor that is read elsewhere too")
            if node not in needed:
                continue
            if node.op == "placeholder":
                self.values[node] = self._placeholder(node)
            elif node.op == "call_function":
                self.values[node] = self._call(node)
            else:
                self.values[node] = None  # a block of its own, refused where it is called
        results = nodes[-1].args[0]
        if len(results) != 1:
            raise UserError(f"certify: the network gives {len(results)} outputs, not one tensor of logits")
        output = self.values[results[0]]
        if not isinstance(output, Traced):
            raise UserError("certify: the network's output does not depend on its input")
        if output.number != len(self.steps.steps) or not self.steps.steps:
            self.steps.add(Affine(torch.clone, (output.shape,), self.steps.like, mixes=False), [output], output.shape)
        return Layers(self.graph.shape, tuple(self.steps.steps))

    def _placeholder(self, node: fx.Node) -> Any:
        if node.name not in self.constants:
            return Traced(0, self.graph.shape)
        value = self.constants[node.name]
        return value.to(self.dtype) if self.dtype is not None and value.is_floating_point() else value

    def _call(self, node: fx.Node) -> Any:
        arguments = fx.map_arg(node.args, lambda n: self.values[n])
        keywords = fx.map_arg(node.kwargs, lambda n: self.values[n])
        if not any(isinstance(self.values[parent], Traced | Parts) for parent in node.all_input_nodes):
            constant = Call(node, _name(node), arguments, keywords)
            if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
                raise constant.refusal("which is random")
            if constant.name in _ROUNDING:  # in float64 it may fall on the other side
                raise constant.refusal("which rounds")
            return node.target(*arguments, **keywords)  # type: ignore[operator]
        if node.target is operator.getitem:
            several: Any = arguments[0]
            return several.get(self.steps, arguments[1])
        name = _name(node)
        translate = TRANSLATIONS.get(name)
        call = Call(node, name, arguments, keywords)
        if translate is None:
            raise call.refusal()
        value = node.meta.get("val")
        if isinstance(value, Tensor) and _coarser(value.dtype, self.steps.own):
            raise call.refusal("which rounds")
        return translate(self.steps, call)


def _coarser(dtype: torch.dtype, own: torch.dtype) -> bool:
    return not dtype.is_floating_point or torch.finfo(dtype).eps > torch.finfo(own).eps


def _name(node: fx.Node) -> str:
    """An operation's name without its overload."""
    return str(getattr(node.target, "_opname", node.target))


def _overwrites(node: fx.Node) -> bool:
    """Whether an operation in place changes a tensor that is read later under another name, a view or its base."""
    argument = _first_argument(node)
    if argument is None or argument.alias_info is None or not argument.alias_info.is_write:
        return False
    base = node
    while _shares(base):
        base = base.all_input_nodes[0]
    waiting = [base]
    while waiting:
        alias = waiting.pop()
        if any(user > node for user in alias.users):
            return True
        waiting += [user for user in alias.users if user is not node and _shares(user)]
    return False


def _shares(node: fx.Node) -> bool:
    """Whether an operation's result may share the memory of its first argument."""
    argument = _first_argument(node)
    if argument is None:
        return node.target is operator.getitem
    return argument.alias_info is not None or _name(node) in ("dropout", "feature_dropout")


def _first_argument(node: fx.Node) -> Any:
    """As its schema declares it; None where there is none."""
    schema = getattr(node.target, "_schema", None)
    return schema.arguments[0] if schema is not None and schema.arguments and node.all_input_nodes else None


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
