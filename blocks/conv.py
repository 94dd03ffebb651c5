"""The convolution, which mixes channels and neighbouring tokens."""

from __future__ import annotations

from torch import nn

from .core.block import Block
from .core.feature import Feature, Width
from .depthwise import ConvModule, Kernel, Stride

__all__ = ["Conv"]


class Conv(Block):
    """Convolve the grid; ``(b, h, w, c) -> (b, ceil(h/s), ceil(w/s), out)``.

    Zero padding of ``(kernel - 1) / 2`` on every side. A convolution whose kernel is as large as
    its stride is a patch-merge (``chw``), then a pointwise layer. Keys: ``weight`` (out, c, k, k),
    ``bias`` (out).

    Attributes:
        out: The output width.
        kernel: The side k of the kernel, odd.
        stride: The step s, the same both ways.
        bias: Whether to add a learned bias.
    """

    out: Width = "out"
    kernel: Kernel = 3
    stride: Stride = 1
    bias: bool = True

    def flow(self, x: Feature) -> Feature:
        y = x.raster().resize(lambda side: -(-side // self.stride))
        return y.replace(channels=x.width(self.out))

    def build(self, x: Feature) -> nn.Module:
        out = x.width(self.out)
        return ConvModule(x.channels, out, self.kernel, self.stride, bias=self.bias)
