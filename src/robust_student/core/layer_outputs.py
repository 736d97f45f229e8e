"""Outputs of a network's inner layers."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from robust_student.core.errors import UserError, nearest


@contextmanager
def watching(network: nn.Module, layers: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Outputs of the named layers, in a dictionary that the passes made inside the block fill; the last pass stays.

    Names are those of `named_modules()`; inside a wrapper with an attribute `network`, such as a `Model`, also those of
    the network in it. Raises UserError for an unknown name and for a layer whose output is not a tensor. The hooks are
    gone after the block.
    """
    seen: dict[str, Tensor] = {}
    modules = {name: module for name, module in network.named_modules() if name}
    inner = {name.removeprefix("network."): module for name, module in modules.items() if name.startswith("network.")}
    modules = inner | modules

    def remember(name: str) -> Callable[[nn.Module, Any, Any], None]:
        if name not in modules:
            raise UserError(f"model: has no layer '{name}'{nearest(name, list(inner or modules))}")

        def hook(module: nn.Module, arguments: Any, output: Any) -> None:
            if not isinstance(output, Tensor):
                raise UserError(
                    f"model: layer '{name}' gives a {type(output).__name__}, not a tensor; name another one"
                )
            seen[name] = output

        return hook

    hooks = {name: remember(name) for name in layers}
    handles = [modules[name].register_forward_hook(hook) for name, hook in hooks.items()]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def features(network: nn.Module, inputs: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
    """Outputs of the named layers on the inputs, in the network's own mode and with gradients.

    Raises UserError as `watching` does, and for a layer that the network does not run.
    """
    with watching(network, layers) as seen:
        network(inputs)
    for name in layers:
        if name not in seen:
            raise UserError(f"model: layer '{name}' takes no part in a forward pass; name another one")
    return {name: seen[name] for name in layers}
