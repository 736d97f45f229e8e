"""A processor whose last bits depend on the size of the batch and the place in it, played on this one."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

ATEN = torch.ops.aten
ROUNDED = {
    *(ATEN.mm.default, ATEN.addmm.default, ATEN.bmm.default, ATEN.baddbmm.default),
    *(ATEN.convolution.default, ATEN.convolution_backward.default),
    *(ATEN.sum.dim_IntList, ATEN.mean.dim),
    *(ATEN._softmax.default, ATEN._log_softmax.default, ATEN.native_batch_norm.default),
    *(ATEN.exp.default, ATEN.log.default, ATEN.tanh.default, ATEN.sin.default, ATEN.cos.default),
}
"""Operations whose kernels are seen to round otherwise for other sizes: vectors, blocks and their remainders."""
INTEGERS = {torch.float32: torch.int32, torch.float64: torch.int64}


one_process = pytest.mark.skipif(
    os.environ.get("OTHER_ROUNDING") == "1", reason="processes that a test starts round as this processor does"
)
"""Of tests that compare with what another process computed, by bits or after many steps."""


class OtherRounding(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's own class hook
    """While it is on, results get other last bits for another number of elements, always the same for the same."""

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Call the kernel, then round otherwise."""
        result = func(*args, **(kwargs or {}))
        if func in ROUNDED:
            for values in result if isinstance(result, tuple) else (result,):
                if type(values) is Tensor and values.dtype in INTEGERS:
                    shake(values)
        return result


def shake(values: Tensor) -> None:
    """Change the two last bits by place and number of elements; a result with few digits is exact and stays."""
    bits = values.view(INTEGERS[values.dtype])
    places = torch.arange(values.numel(), device=values.device, dtype=bits.dtype).view(values.shape)
    other = ((places + 31 * values.numel()) * 40503 >> 7) & 3
    bits.bitwise_xor_(torch.where(bits & 0xFF != 0, other, 0))
