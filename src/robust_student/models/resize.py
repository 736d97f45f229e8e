"""Images brought to another size, differentiably: bilinear with antialiasing, as two matrix products."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional


class Resize(nn.Module):
    """x -> R x C for each channel: rows of R and columns of C are bilinear weights that sum to 1.

    The weights are those of `interpolate(mode="bilinear", antialias=True)`: when shrinking, the triangle is as wide as
    the scale, so that no pixel is skipped. As matrices they have exact gradients of any order, run the same on every
    device, and can be certified.
    """

    rows: Tensor
    columns: Tensor

    def __init__(self, before: tuple[int, int], after: tuple[int, int]) -> None:
        """Compute the weights from `before` to `after` (height, width); they are not part of the state."""
        super().__init__()
        self.register_buffer("rows", _weights(before[0], after[0]).T.contiguous(), persistent=False)
        self.register_buffer("columns", _weights(before[1], after[1]).T.contiguous(), persistent=False)

    def forward(
        self, images: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height_after width_after"]:
        """The resized images."""
        wide = images @ self.columns
        return (wide.transpose(2, 3) @ self.rows).transpose(2, 3)


def _weights(before: int, after: int) -> Float[Tensor, "after before"]:
    """Weight of every old position in every new one."""
    identity = torch.eye(before)[None, None]
    return functional.interpolate(identity, (after, before), mode="bilinear", antialias=True)[0, 0]
