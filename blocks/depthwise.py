"""The depthwise convolution: each channel filtered on its own."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field
from torch import Tensor, nn

from .block import Block
from .errors import SpecError
from .feature import Feature

__all__ = ["Depthwise", "DepthwiseConv", "Kernel", "Stride"]


def _odd(kernel: int) -> int:
    if kernel % 2 == 0:
        raise SpecError(f"{kernel} is even", expected="an odd kernel", hint=f"Try {kernel + 1}.")
    return kernel


Kernel = Annotated[int, Field(ge=1, le=63), AfterValidator(_odd)]
Stride = Annotated[int, Field(ge=1, le=64)]


class Depthwise(Block):
    """Filter each channel with its own kernel; ``(b, h, w, c) -> (b, ceil(h/s), ceil(w/s), c)``.

    Zero padding of ``(kernel - 1) / 2`` on every side. Keys: ``weight`` (c, 1, k, k), ``bias`` (c).

    Attributes:
        kernel: The side k of the kernel, odd.
        stride: The step s, the same both ways.
        bias: Whether to add a learned bias.
    """

    kernel: Kernel = 3
    stride: Stride = 1
    bias: bool = True

    def flow(self, x: Feature) -> Feature:
        return x.raster().resize(lambda side: -(-side // self.stride))

    def build(self, x: Feature) -> nn.Module:
        return DepthwiseConv(x.channels, self.kernel, self.stride, bias=self.bias)


class DepthwiseConv(nn.Conv2d):
    """A depthwise `nn.Conv2d` on channels-last features; ``(b, h, w, c) -> (b, h', w', c)``."""

    def __init__(self, channels: int, kernel: int, stride: int = 1, *, bias: bool = True) -> None:
        super().__init__(
            channels, channels, kernel, stride, (kernel - 1) // 2, groups=channels, bias=bias
        )

    def forward(self, x: Tensor) -> Tensor:
        # The permuted view of a contiguous feature is channels_last: no copy on either side.
        return super().forward(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
