"""The Q-Former: a small BERT on learned queries, with cross-attention to the image."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from .attention import Attention, Depth, FeedForward, Heads, Queries, head_width, queries
from .core.activation import Act
from .core.block import Block
from .core.feature import Channels, Feature, Width
from .core.masks import PackedQueries, attend_apart, pack_queries
from .core.packing import Packing
from .norm_act import Eps

__all__ = ["QFormer", "QFormerLayer", "QFormerModule"]


class QFormer(Block):
    """Run learned queries through self- and cross-attention; ``(b, h, w, c) -> (b, 1, n, out)``.

    ``q = LN(queries)``, then `depth` layers of ``q = LN(q + attention(q, q))``, in every
    `cross_every`-th layer from the first on ``q = LN(q + attention(q, x))``, and
    ``q = LN(q + ffn(q))``. All layers have biases. The input may have any number of tokens, in any
    order. Source: Li et al., "BLIP-2", 2023;
    `Blip2QFormerModel` of transformers, without its dropout. Keys: ``queries`` (n, out),
    ``norm``, then for each layer ``layers.<i>.self_attention``, ``.self_norm``,
    ``.cross_attention``, ``.cross_norm``, ``.ffn``, ``.ffn_norm``.

    Attributes:
        out: The queries' and the output's width.
        queries: The number n of queries.
        depth: The number of layers.
        heads: The number of heads, which divides `out`.
        hidden: The inner width of the feed-forward layers; None is four times `out`.
        cross_every: Every how many layers there is cross-attention.
        eps: Of the norms.
        act: The activation of the feed-forward layers; ``gelu`` is the exact form.
    """

    needs_grid: ClassVar[bool] = False
    mixes_tokens: ClassVar[bool] = True

    out: Width = "out"
    queries: Queries = 32
    depth: Depth = 12
    heads: Heads = 12
    hidden: Channels | None = None
    cross_every: Depth = 2
    eps: Eps = 1e-12
    act: Act = "gelu"

    @property
    def counts_as(self) -> int:
        return 6 * self.depth  # two attentions, a feed-forward layer and a norm after each

    def flow(self, x: Feature) -> Feature:
        out = x.width(self.out)
        head_width(out, self.heads)
        return x.replace(channels=out, grid=(1, self.queries), layout="sequence")

    def build(self, x: Feature) -> nn.Module:
        out = x.width(self.out)
        hidden = self.hidden or 4 * out
        contexts = (None if index % self.cross_every else x.channels for index in range(self.depth))
        layers = (
            QFormerLayer(out, context, self.heads, hidden, self.eps, self.act)
            for context in contexts
        )
        norm = nn.LayerNorm(out, self.eps)
        return QFormerModule(queries(self.queries, out, 0.02), norm, *layers)


class QFormerModule(nn.Module):
    """Learned queries through the layers of a Q-Former; ``(b, h, w, c) -> (b, 1, n, d)``.

    Args:
        first: The learned queries (n, d).
        norm: Their norm.
        *layers: Modules that take the queries (b, n, d), the tokens (b, m, c) and a mask, or None.
    """

    by_size = True
    tp_styles: ClassVar[dict[str, str]] = {}

    def __init__(self, first: nn.Parameter, norm: nn.Module, *layers: nn.Module) -> None:
        super().__init__()
        self.number = len(first)
        self.queries = first
        self.norm = norm
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        return self._run(x.shape[0], x.flatten(1, 2))[:, None]

    def pack(self, images: Packing) -> tuple[Packing, PackedQueries]:
        return pack_queries(images, self.number)

    def forward_packed(self, x: Tensor, index: PackedQueries) -> Tensor:
        """``(rows, c) -> (images * n, d)``, at a budget."""
        images = len(index.mask)
        return attend_apart(
            lambda x, mask: self._run(images, x[None], mask).flatten(0, 1), x, index
        )

    def _run(self, images: int, x: Tensor, mask: Tensor | None = None) -> Tensor:
        q: Tensor = self.norm(self.queries).expand(images, -1, -1)
        for layer in self.layers:
            q = layer(q, x, mask)
        return q


class QFormerLayer(nn.Module):
    """Self- and cross-attention, then a feed-forward layer; ``(b, n, d), (b, m, c) -> (b, n, d)``.

    With a mask (b * n, m), the tokens are those of all images, (1, m, c), and the mask is true for
    those that a query sees.

    Args:
        channels: The queries' width d.
        context: The tokens' width c; None for a layer without cross-attention.
        heads: The number of heads.
        hidden: The inner width of the feed-forward layer.
        eps: Of the norms.
        act: The feed-forward layer's activation.
    """

    tp_styles: ClassVar[dict[str, str]] = {}

    def __init__(
        self, channels: int, context: int | None, heads: int, hidden: int, eps: float, act: Act
    ) -> None:
        super().__init__()
        width = head_width(channels, heads)
        self.self_attention = Attention(channels, channels, heads, width)
        self.self_norm = nn.LayerNorm(channels, eps)
        self.cross_attention: Attention | None = None
        self.cross_norm: nn.LayerNorm | None = None
        if context is not None:
            self.cross_attention = Attention(channels, context, heads, width)
            self.cross_norm = nn.LayerNorm(channels, eps)
        self.ffn = FeedForward(channels, hidden, act, bias=True)
        self.ffn_norm = nn.LayerNorm(channels, eps)

    def forward(self, q: Tensor, x: Tensor, mask: Tensor | None = None) -> Tensor:
        q = self.self_norm(q + self.self_attention(q, q, q))
        if self.cross_attention is not None and self.cross_norm is not None:
            if mask is None:
                y = self.cross_attention(q, x, x)
            else:
                y = self.cross_attention(q.flatten(0, 1)[None], x, x, mask).view_as(q)
            q = self.cross_norm(q + y)
        out: Tensor = self.ffn_norm(q + self.ffn(q))
        return out
