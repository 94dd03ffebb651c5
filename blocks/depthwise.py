"""The depthwise convolution, which filters each channel on its own."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from pydantic import AfterValidator, Field
from torch import Tensor, nn
from torch.nn import functional as F

from .core.block import Block
from .core.errors import SpecError
from .core.feature import Feature
from .core.linear import widened
from .core.packing import Packing
from .core.window import neighbours

__all__ = ["ConvModule", "Depthwise", "DepthwiseConv", "Kernel", "Stride"]


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


def to_nchw(x: Tensor) -> Tensor:
    """Return a feature as convolutions take it; ``(b, h, w, c) -> (b, c, h, w)``.

    The permuted view of a contiguous feature is channels_last, so nothing is copied. Inductor
    (torch 2.13) cannot lower a convolution on such a view if its sides are symbolic, so compiled
    code gets a copy, which the compiler may fuse.
    """
    x = x.permute(0, 3, 1, 2)
    return x.contiguous() if torch.compiler.is_compiling() else x


def convolve(
    x: Tensor, weight: Tensor, bias: Tensor | None, kernel: int, stride: int, groups: int = 1
) -> Tensor:
    """Convolve a feature, with padding (k - 1) / 2; ``(b, h, w, c) -> (b, h', w', out)``.

    Half precision goes through fp32 where the processor has no units for it: torch would compute a
    depthwise convolution channel by channel there.
    """
    if kernel == 1 and stride > 1:
        # Without AVX-512, the gradients of a strided 1x1 convolution of up to six channels are
        # written past the end of their memory by oneDNN (torch 2.13).
        x, stride = x[:, ::stride, ::stride], 1
    if (wide := widened(x, weight, bias)) is not None:
        return convolve(*wide, kernel, stride, groups).to(x.dtype)
    y = to_nchw(x)
    if groups == 1 and not torch.compiler.is_compiling() and _heavier_than(weight, y):
        y = y.contiguous()
    y = F.conv2d(y, weight, bias, stride, (kernel - 1) // 2, groups=groups)
    return y.permute(0, 2, 3, 1)


def _heavier_than(weight: Tensor, x: Tensor) -> bool:
    """Return whether torch would copy the weight to align layouts, and that is larger than `x`."""
    aligned = weight.is_contiguous(memory_format=torch.channels_last)
    return not aligned and weight.numel() > x.numel()


class ConvModule(nn.Module):
    """A convolution on channels-last features; ``(b, h, w, c) -> (b, h', w', out)``.

    Not an `nn.Conv2d`, because tools that replace those expect ``(b, c, h, w)``; it is initialised
    like one.
    """

    by_size = True

    def __init__(
        self, in_: int, out: int, kernel: int, stride: int, *, bias: bool, groups: int = 1
    ) -> None:
        super().__init__()
        self.in_ = in_
        self.out = out
        self.kernel = kernel
        self.stride = stride
        self.groups = groups
        self.weight = nn.Parameter(torch.empty(out, in_ // groups, kernel, kernel))
        self.bias = nn.Parameter(torch.empty(out)) if bias else None
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)
        if self.bias is not None:
            bound = 1 / self.weight[0].numel() ** 0.5
            nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        return convolve(x, self.weight, self.bias, self.kernel, self.stride, self.groups)

    def pack(self, images: Packing) -> tuple[Packing, Any]:
        return neighbours(images, self.kernel, self.stride)

    def forward_packed(self, x: Tensor, index: Any) -> Tensor:
        """Convolve packed images of different sizes; ``(rows, c) -> (m, out)``."""
        if (wide := widened(x, self.weight, self.bias)) is not None:
            return self._packed(*wide, index).to(x.dtype)
        return self._packed(x, self.weight, self.bias, index)

    def _packed(self, x: Tensor, weight: Tensor, bias: Tensor | None, index: Tensor) -> Tensor:
        tokens = F.embedding(index, _zero_ended(x)).flatten(1)
        return F.linear(tokens, weight.permute(0, 2, 3, 1).flatten(1), bias)

    def extra_repr(self) -> str:
        sizes = f"{self.in_}, {self.out}, kernel={self.kernel}, stride={self.stride}"
        return f"{sizes}, groups={self.groups}, bias={self.bias is not None}"


class DepthwiseConv(ConvModule):
    """A depthwise convolution on channels-last features; ``(b, h, w, c) -> (b, h', w', c)``."""

    def __init__(self, channels: int, kernel: int, stride: int = 1, *, bias: bool = True) -> None:
        super().__init__(channels, channels, kernel, stride, bias=bias, groups=channels)

    def _packed(self, x: Tensor, weight: Tensor, bias: Tensor | None, index: Tensor) -> Tensor:
        # In half precision, a sum of many products would be rounded as many times.
        dtype = torch.promote_types(x.dtype, torch.float32)
        wide, taps = _zero_ended(x.to(dtype)), weight.to(dtype).flatten(1).t().contiguous()
        # One tap after the other: all of them at once would be k * k copies of the images.
        y = wide.new_zeros(len(index), x.shape[1])
        for rows, tap in zip(index.unbind(1), taps.unbind(), strict=True):
            y.addcmul_(F.embedding(rows, wide), tap)
        return (y if bias is None else y.add_(bias)).to(x.dtype)


def _zero_ended(x: Tensor) -> Tensor:
    """Append the row of zeros that stands for tokens outside; ``(n, c) -> (n + 1, c)``."""
    return torch.cat([x, x.new_zeros(1, x.shape[1])])
