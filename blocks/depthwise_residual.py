"""The depthwise convolution with a skip connection."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from .core.fast import reusable
from .core.feature import Feature
from .core.packing import Packing
from .core.window import Windows, average, windows
from .depthwise import Depthwise, DepthwiseConv

__all__ = ["DepthwiseResidual", "DepthwiseResidualConv"]


class DepthwiseResidual(Depthwise):
    """Depthwise convolution plus skip; ``(b, h, w, c) -> (b, ceil(h/s), ceil(w/s), c)``.

    The skip is the input itself; for a stride s > 1 it is the s x s average, where a window cut off
    by the border is averaged over the tokens it holds. Keys as for `Depthwise`.
    """

    def build(self, x: Feature) -> nn.Module:
        return DepthwiseResidualConv(x.channels, self.kernel, self.stride, bias=self.bias)


class SkippedWindows(NamedTuple):
    """What packed images need.

    Attributes:
        neighbours: The rows of the tokens that each output token is convolved from.
        windows: Those that its skip is the average of, or None without a stride.
    """

    neighbours: Tensor
    windows: Windows | None


class DepthwiseResidualConv(DepthwiseConv):
    """``conv(x) + skip(x)`` on channels-last features; ``(b, h, w, c) -> (b, h', w', c)``."""

    def forward(self, x: Tensor) -> Tensor:
        y, skip = super().forward(x), x
        if self.stride > 1:
            maps = x.permute(0, 3, 1, 2)
            maps = F.avg_pool2d(maps, self.stride, ceil_mode=True, count_include_pad=False)
            skip = maps.permute(0, 2, 3, 1)
        if y.dtype == skip.dtype and reusable(y, skip):
            return y.add_(skip)
        return y + skip

    def pack(self, images: Packing) -> tuple[Packing, SkippedWindows]:
        stride = self.stride
        skip = windows(images, (stride, stride), ceil=True)[1] if stride > 1 else None
        after, index = super().pack(images)
        return after, SkippedWindows(index, skip)

    def forward_packed(self, x: Tensor, index: SkippedWindows) -> Tensor:
        """``(rows, c) -> (m, c)``."""
        skip = x if index.windows is None else average(x, index.windows)
        return super().forward_packed(x, index.neighbours) + skip
