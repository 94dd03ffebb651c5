"""The depthwise convolution with a skip connection."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from .core.fast import reusable
from .core.feature import Feature
from .depthwise import Depthwise, DepthwiseConv

__all__ = ["DepthwiseResidual", "DepthwiseResidualConv"]


class DepthwiseResidual(Depthwise):
    """Depthwise convolution plus skip; ``(b, h, w, c) -> (b, ceil(h/s), ceil(w/s), c)``.

    The skip is the input itself; for a stride s > 1 it is the s x s average, where a window cut off
    by the border is averaged over the tokens it holds. Keys as for `Depthwise`.
    """

    def build(self, x: Feature) -> nn.Module:
        return DepthwiseResidualConv(x.channels, self.kernel, self.stride, bias=self.bias)


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
