"""A torch.export program (.pt2) as a model, on batches of the size that it was exported for."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robust_student.core.errors import UserError, require_file


class Program(nn.Module):
    """An exported program behind the interface of a network; its mode was settled when it was exported."""

    def __init__(self, module: nn.Module, shape: tuple[int | None, ...], batch: int | None, least: int) -> None:
        """Wrap a program for `least` to `batch` inputs of `shape` at a time; None in either: any size will do."""
        super().__init__()
        self.module, self.shape, self.batch, self.least = module, shape, batch, least

    def train(self, mode: bool = True) -> "Program":
        """Only remembered: an exported program has no modes."""
        self.training = mode
        return self

    def forward(self, inputs: Tensor) -> Any:
        """What the program returns for a batch of any size: it is cut into pieces, and filled up where too small."""
        if self.batch is None and len(inputs) >= self.least:
            return self.module(inputs)
        pieces = torch.split(inputs, self.batch or len(inputs))
        return _joined([self._filled(piece) for piece in pieces])

    def _filled(self, piece: Tensor) -> Any:
        missing = max(0, self.least - len(piece))
        filled = torch.cat([piece, piece[-1:].expand(missing, *piece.shape[1:])]) if missing else piece
        return _cut(self.module(filled), len(piece))


def open_program(path: Path, *, trust: bool) -> Program:
    """Read a `.pt2` file of `torch.export.save`.

    Reading one can run code that is in it: torch.export (2.13) unpickles tensors and objects that the file marks so,
    falls back to unrestricted unpickling for its example inputs, evaluates symbolic expressions and opens compiled
    libraries. Nothing is read unless `trust` says that the file is the user's own. Raises UserError.
    """
    require_file(path, f"model {path}: cannot read it")
    if not trust:
        raise UserError(
            f"model {path}: reading a torch.export program can run code that is in it; if you trust it, pass "
            "--trust (trust=True in Python)"
        )
    try:
        program = torch.export.load(path)
        inputs = set(program.graph_signature.user_inputs)
        values = [node.meta["val"] for node in program.graph.nodes if node.op == "placeholder" and node.name in inputs]
        module = program.module()
    except Exception as error:  # a damaged archive shows itself in many ways
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"model {path}: not a program of torch.export ({reason})") from None
    if len(values) != 1 or not isinstance(values[0], Tensor) or values[0].dim() < 2:
        raise UserError(f"model {path}: takes {len(values)} inputs, not one batch of examples")
    batch, *sizes = values[0].shape
    shape = tuple(size if isinstance(size, int) else None for size in sizes)
    if isinstance(batch, int):
        return Program(module, shape, batch, batch)
    limits = program.range_constraints.get(batch.node.expr)
    if limits is None:
        return Program(module, shape, None, 1)
    return Program(module, shape, int(limits.upper) if limits.upper < 2**31 else None, max(1, int(limits.lower)))


def _joined(results: list[Any]) -> Any:
    """The pieces' results put together, tensor by tensor, whatever holds the tensors."""
    flat = [torch.utils._pytree.tree_flatten(result) for result in results]
    columns = zip(*(leaves for leaves, _ in flat), strict=True)
    leaves = [torch.cat(parts) if isinstance(parts[0], Tensor) else parts[0] for parts in columns]
    return torch.utils._pytree.tree_unflatten(leaves, flat[0][1])


def _cut(result: Any, count: int) -> Any:
    """The first `count` rows of every tensor."""
    return torch.utils._pytree.tree_map_only(Tensor, lambda tensor: tensor[:count], result)
