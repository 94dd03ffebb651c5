"""Cross-attention from learned queries, without norms or skips."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from .attention import Attention, Heads, Queries, head_width, queries
from .core.block import Block
from .core.feature import Feature
from .core.masks import PackedQueries, attend_apart, pack_queries
from .core.packing import Packing

__all__ = ["CrossAttention", "CrossAttentionModule"]


class CrossAttention(Block):
    """Cross-attend once from learned queries to the tokens; ``(b, h, w, c) -> (b, 1, n, c)``.

    Multi-head attention with biases, without norm, skip or position: those are blocks of their own,
    or parts of `query-resampler` and `resampler`. The input may have any number of tokens, in any
    order. Source: `Kosmos2ImageToTextProjection` of transformers. Keys: ``queries``
    (n, c), ``attention``.

    Attributes:
        queries: The number n of queries.
        heads: The number of heads, which divides the width.
        self_keys: Whether the queries are keys and values too, after the tokens, as in Kosmos-2.
    """

    needs_grid: ClassVar[bool] = False
    mixes_tokens: ClassVar[bool] = True

    queries: Queries = 64
    heads: Heads = 16
    self_keys: bool = False

    def flow(self, x: Feature) -> Feature:
        head_width(x.channels, self.heads)
        return x.replace(grid=(1, self.queries), layout="sequence")

    def build(self, x: Feature) -> nn.Module:
        return CrossAttentionModule(x.channels, self.queries, self.heads, self_keys=self.self_keys)


class CrossAttentionModule(nn.Module):
    """Learned queries attend to the tokens; ``(b, h, w, c) -> (b, 1, n, c)``.

    Args:
        channels: The width c.
        number: The number n of queries.
        heads: The number of heads.
        self_keys: Whether the queries are among the keys and values.
    """

    by_size = True
    tp_styles: ClassVar[dict[str, str]] = {}

    def __init__(self, channels: int, number: int, heads: int, *, self_keys: bool) -> None:
        super().__init__()
        self.number = number
        self.queries = queries(number, channels, 1.0)
        self.attention = Attention(channels, channels, heads, head_width(channels, heads))
        self.self_keys = self_keys

    def forward(self, x: Tensor) -> Tensor:
        q = self.queries.repeat(x.shape[0], 1, 1)
        return self._attend(q, x.flatten(1, 2))[:, None]

    def pack(self, images: Packing) -> tuple[Packing, PackedQueries]:
        return pack_queries(images, self.number, self_keys=self.self_keys)

    def forward_packed(self, x: Tensor, index: PackedQueries) -> Tensor:
        """``(rows, c) -> (images * n, c)``, at a budget."""
        q = self.queries.repeat(len(index.mask), 1)[None]
        return attend_apart(lambda x, mask: self._attend(q, x[None], mask)[0], x, index)

    def _attend(self, q: Tensor, x: Tensor, mask: Tensor | None = None) -> Tensor:
        keys = torch.cat([x, q], 1) if self.self_keys else x
        y: Tensor = self.attention(q, keys, keys, mask)
        return y

    def extra_repr(self) -> str:
        return f"{self.number}, self_keys={self.self_keys}"
