"""A traced network as a list of steps, and what the translation of one call needs to add to it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, fx

from robust_student.bounds.operations import Affine, Operation
from robust_student.core.errors import UserError
from robust_student.core.tensors import Shape

TRACED_BATCH = 5
"""Examples in the trace: tells the batch from the other dimensions."""
SMOOTHING = "randomized smoothing works with any network (smoothing.sigma)"
"""What every refusal offers."""


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
class Traced:
    """A tensor that depends on the input: which step gives it, and its shape without the batch."""

    number: int
    shape: Shape


@dataclass(frozen=True, eq=False)
class Parts:
    """Several results of one operation, of which `get` builds the one that is used."""

    get: Callable[["Steps", int], Traced]


@dataclass(frozen=True, eq=False)
class Call:
    """One operation of the trace with its arguments; tensors that depend on the input are `Traced`."""

    node: fx.Node
    name: str
    """Of the operation, without its overload."""
    arguments: tuple[Any, ...]
    keywords: Mapping[str, Any]

    def argument(self, position: int, name: str, default: Any = None) -> Any:
        """An argument by position or name."""
        if position < len(self.arguments):
            return self.arguments[position]
        return self.keywords.get(name, default)

    @property
    def traced(self) -> Traced:
        """The first argument, which must be the only one that depends on the input."""
        rest = [*self.arguments[1:], *self.keywords.values()]
        if not isinstance(self.arguments[0], Traced) or any(isinstance(value, Traced) for value in rest):
            raise self.refusal()
        return self.arguments[0]

    def shape(self) -> Shape:
        """Shape of the result without the batch; an operation that moves the batch is refused."""
        shape = tuple(self.node.meta["val"].shape)
        if not shape or shape[0] != TRACED_BATCH:
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


class Steps:
    """The list while it grows."""

    def __init__(self, like: Tensor, own: torch.dtype) -> None:
        """Start an empty list of steps whose constants are of `like`'s dtype and device; `own`: the network's dtype."""
        self.like, self.own = like, own
        self.steps: list[Step] = []

    def add(self, operation: Operation, parents: Sequence[Traced], shape: Sequence[int]) -> Traced:
        """Append an operation on earlier values."""
        self.steps.append(Step(operation, tuple(parent.number for parent in parents), tuple(shape)))
        return Traced(len(self.steps), tuple(shape))

    def affine(
        self,
        call: Call,
        apply: Callable[..., Tensor],
        parents: Sequence[Traced],
        absolute: Callable[..., Tensor] | None = None,
        adjoint: Callable[[Tensor], Tensor] | None = None,
        spectral: Callable[[], float] | None = None,
        mixes: bool = True,
    ) -> Traced:
        """Append an affine operation (fields of `Affine`) that gives what `call` gives."""
        shapes = tuple(parent.shape for parent in parents)
        return self.add(Affine(apply, shapes, self.like, absolute, adjoint, spectral, mixes), parents, call.shape())


Translation: TypeAlias = Callable[[Steps, Call], Any]
"""Adds the steps of one call and returns the value it gives: `Traced`, or `Parts` where it gives several."""
