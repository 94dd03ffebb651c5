"""Attention pooling: each window's mean attends to the window's tokens."""

from __future__ import annotations

from typing import ClassVar

import torch
from einops import rearrange, repeat
from torch import Tensor, nn
from torch.nn import functional as F

from .attention import Attention, HeadDim, Heads, head_width
from .core.block import Block
from .core.feature import Feature, Width
from .core.packing import Packing
from .core.window import Windows, take, windows
from .depthwise import Stride
from .pool import pooled

__all__ = ["AttentionPool", "AttentionPoolModule"]


class AttentionPool(Block):
    """Pool each window by attention from its mean; ``(b, h, w, c) -> (b, h', w', out)``.

    Multi-head attention with biases from each s x s window's mean to its tokens; its four layers
    map c to heads * head_dim, and that to `out`. Sides become h // s. Source: Molmo's
    `image_pooling_2d`; `Molmo2Adapter` of transformers. Keys: ``attention``.

    Attributes:
        out: The output width.
        stride: The side s of the windows.
        heads: The number of heads.
        head_dim: The width of a head; None is `out` divided by `heads`.
        ceil: Keep windows that the border cuts off, with the tokens they hold; else drop them.
    """

    out: Width = "out"
    stride: Stride = 2
    heads: Heads = 16
    head_dim: HeadDim | None = None
    ceil: bool = False

    def flow(self, x: Feature) -> Feature:
        out = x.width(self.out)
        self._head_dim(out)
        return pooled(x, self.stride, ceil=self.ceil).replace(channels=out)

    def build(self, x: Feature) -> nn.Module:
        out = x.width(self.out)
        attention = Attention(x.channels, x.channels, self.heads, self._head_dim(out), out=out)
        return AttentionPoolModule(attention, self.stride, ceil=self.ceil)

    def _head_dim(self, out: int) -> int:
        return self.head_dim or head_width(out, self.heads)


class AttentionPoolModule(nn.Module):
    """Windows pooled by attention; ``(b, h, w, c) -> (b, h', w', d)``.

    Args:
        attention: Takes queries (m, 1, c), keys and values (m, s * s, c), and optionally a mask
            (m, 1, 1, s * s).
        stride: The side s of the windows.
        ceil: Whether to keep windows that the border cuts off.
    """

    tp_styles: ClassVar[dict[str, str]] = {}

    def __init__(self, attention: nn.Module, stride: int, *, ceil: bool) -> None:
        super().__init__()
        self.attention = attention
        self.stride = stride
        self.ceil = ceil

    def forward(self, x: Tensor) -> Tensor:
        b, h, w, _ = x.shape
        s = self.stride
        inside: Tensor | None = None
        if self.ceil and (h % s or w % s):
            margin = (0, -w % s, 0, -h % s)
            inside = F.pad(torch.ones(h, w, dtype=torch.bool, device=x.device), margin)
            x = F.pad(x, (0, 0, *margin))
        rows, columns = x.shape[1] // s, x.shape[2] // s
        x = x[:, : rows * s, : columns * s]
        windows = rearrange(x, "b (h p) (w q) c -> (b h w) (p q) c", p=s, q=s)
        if inside is not None:
            inside = repeat(inside, "(h p) (w q) -> (b h w) (p q)", b=b, p=s, q=s)
        return rearrange(self._attend(windows, inside), "(b h w) d -> b h w d", h=rows, w=columns)

    def pack(self, images: Packing) -> tuple[Packing, Windows]:
        return windows(images, (self.stride, self.stride), ceil=self.ceil)

    def forward_packed(self, x: Tensor, index: Windows) -> Tensor:
        """Pool the windows of packed images of different sizes."""
        return self._attend(take(x, index), index.inside)

    def _attend(self, x: Tensor, inside: Tensor | None) -> Tensor:
        """Pool windows; ``(m, k, c) -> (m, d)``. Where `inside` is false, `x` is zero."""
        if inside is None:
            y: Tensor = self.attention(x.mean(1, keepdim=True), x, x)
        else:
            mean = x.sum(1, keepdim=True) / inside.sum(1)[:, None, None].to(x.dtype)
            y = self.attention(mean, x, x, inside[:, None, None])
        return y[:, 0]

    def extra_repr(self) -> str:
        return f"stride={self.stride}, ceil={self.ceil}"
