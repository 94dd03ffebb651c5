"""The convolution, which mixes channels and neighbouring tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .core.block import Block
from .core.feature import Feature, Width
from .depthwise import Kernel, Stride, convolve, init_conv

__all__ = ["Conv", "ConvModule"]


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
        return ConvModule(
            x.channels,
            x.width(self.out),
            self.kernel,
            self.stride,
            bias=self.bias,
        )


class ConvModule(nn.Module):
    """A convolution on channels-last features; ``(b, h, w, c) -> (b, h', w', out)``.

    Not an `nn.Conv2d`, because tools that replace those expect ``(b, c, h, w)``; it is initialised
    like one.
    """

    def __init__(self, in_: int, out: int, kernel: int, stride: int, *, bias: bool) -> None:
        super().__init__()
        self.in_ = in_
        self.out = out
        self.kernel = kernel
        self.stride = stride
        self.weight = nn.Parameter(torch.empty(out, in_, kernel, kernel))
        self.bias = nn.Parameter(torch.empty(out)) if bias else None
        init_conv(self.weight, self.bias)

    def forward(self, x: Tensor) -> Tensor:
        return convolve(x, self.weight, self.bias, self.kernel, self.stride)

    def extra_repr(self) -> str:
        bias, sizes = self.bias is not None, f"{self.in_}, {self.out}, kernel={self.kernel}"
        return f"{sizes}, stride={self.stride}, bias={bias}"
