"""The convolution that mixes channels and neighbours."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .block import Block
from .depthwise import Kernel, Stride, init_conv, to_nchw
from .feature import Feature, Width

__all__ = ["Conv", "ConvModule"]


class Conv(Block):
    """Convolve; ``(b, h, w, c) -> (b, ceil(h/s), ceil(w/s), out)``.

    Zero padding of ``(kernel - 1) / 2`` on every side. A convolution whose kernel is its stride is
    a patch-merge (``chw``) and a pointwise layer. Keys: ``weight`` (out, c, k, k), ``bias`` (out).

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

    No `nn.Conv2d`: tools that replace those expect ``(b, c, h, w)``. It starts as one does.
    """

    def __init__(self, in_: int, out: int, kernel: int, stride: int, *, bias: bool) -> None:
        super().__init__()
        self.stride = stride
        self.weight = nn.Parameter(torch.empty(out, in_, kernel, kernel))
        self.bias = nn.Parameter(torch.empty(out)) if bias else None
        init_conv(self.weight, self.bias)

    def forward(self, x: Tensor) -> Tensor:
        padding = self.weight.shape[-1] // 2
        y = to_nchw(x)
        if not torch.compiler.is_compiling() and self._heavier_than(y):
            y = y.contiguous()
        y = F.conv2d(y, self.weight, self.bias, self.stride, padding)
        return y.permute(0, 2, 3, 1)

    def _heavier_than(self, x: Tensor) -> bool:
        """Return whether torch would copy more of the weight than of `x` to bring them in line."""
        weight = self.weight
        aligned = weight.is_contiguous(memory_format=torch.channels_last)
        return not aligned and weight.numel() > x.numel()

    def extra_repr(self) -> str:
        out, in_, kernel, _ = self.weight.shape
        bias = self.bias is not None
        return f"{in_}, {out}, kernel={kernel}, stride={self.stride}, bias={bias}"
