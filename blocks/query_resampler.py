"""One cross-attention from learned queries to tokens with position embeddings."""

from __future__ import annotations

import itertools
from typing import ClassVar, Literal, TypeAlias, cast

import torch
from pydantic import model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from .attention import Attention, Heads, Queries, head_width, queries, square_side
from .core.block import Block
from .core.feature import Feature, Width
from .core.linear import Linear, call_linear
from .core.masks import PackedQueries, attend_apart, pack_queries
from .core.packing import Packing
from .position import Coordinates, check_sincos, coordinates, packed_sincos, sincos

__all__ = ["QueryPosition", "QueryResampler", "QueryResamplerModule"]

_EPS = 1e-6

Places: TypeAlias = Coordinates | Tensor
"""Where packed tokens are: row and column; or the share of each place of a table, (rows, n)."""


class QueryResampler(Block):
    """Cross-attend once from queries to tokens with positions; ``(b, h, w, c) -> (b, 1, n, out)``.

    ``x = LN(linear(x))``, then ``proj(LN(attention(LN(queries), x + places, x)))``, where `places`
    are sines and cosines of column and row, so that any grid will do. A linear layer without bias
    maps the tokens to `out`, unless they have that width already; the attention's layers have
    biases, `proj` has none, and the eps is 1e-6. Source: the resampler of Qwen-VL (its
    `visual.py`) and of MiniCPM-V up to 2.6 (its `resampler.py`); also vLLM's `Resampler2` and
    `Resampler2_5`. Keys: ``queries`` (n, out), ``context_proj``, ``context_norm``,
    ``queries_norm``, ``places.table`` (n, out) if the queries have positions, ``attention``,
    ``norm``, ``proj``.

    Attributes:
        out: The output width.
        queries: The number n of queries.
        heads: The number of heads, which divides `out`.
        places: What gets position embeddings: ``keys``: the tokens (MiniCPM-V from 2.5 on);
            ``both``: also the queries, which form a square, from a table that is not trained
            (2.0); ``resized``: the same, and the tokens' embeddings are that table, interpolated
            to their grid by bicubic scaling (Qwen-VL).
    """

    out: Width = "out"
    queries: Queries = 64
    heads: Heads = 16
    places: Literal["keys", "both", "resized"] = "keys"

    @model_validator(mode="after")
    def _check_square(self) -> QueryResampler:
        if self.places != "keys":
            square_side(self.queries)
        return self

    def flow(self, x: Feature) -> Feature:
        out = x.raster().width(self.out)
        head_width(out, self.heads)
        check_sincos(out)
        return x.replace(channels=out, grid=(1, self.queries), layout="sequence")

    def build(self, x: Feature) -> nn.Module:
        out = x.width(self.out)
        position = QueryPosition(self.queries, out, self.places)
        return QueryResamplerModule(x.channels, out, self.queries, self.heads, position)


class QueryResamplerModule(nn.Module):
    """Learned queries attend to tokens with positions; ``(b, h, w, c) -> (b, 1, n, out)``.

    Args:
        in_: The tokens' width c.
        out: The queries' and the output's width.
        number: The number n of queries.
        heads: The number of heads.
        position: Adds position embeddings to queries and tokens.
    """

    by_size = True
    tp_styles: ClassVar[dict[str, str]] = {}

    def __init__(
        self, in_: int, out: int, number: int, heads: int, position: QueryPosition
    ) -> None:
        super().__init__()
        self.number = number
        self.queries = queries(number, out, 0.02)
        self.context_proj = nn.Identity() if in_ == out else Linear(in_, out, bias=False)
        self.context_norm = nn.LayerNorm(out, _EPS)
        self.queries_norm = nn.LayerNorm(out, _EPS)
        self.places = position
        self.attention = Attention(out, out, heads, head_width(out, heads))
        self.norm = nn.LayerNorm(out, _EPS)
        self.proj = Linear(out, out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.context_norm(call_linear(self.context_proj, x))
        q, k = self.places(self.queries_norm(self.queries), x)
        q = q.expand(x.shape[0], -1, -1)
        return self._attend(q, k.flatten(1, 2), x.flatten(1, 2))[:, None]

    def pack(self, images: Packing) -> tuple[Packing, tuple[PackedQueries, Places]]:
        after, own = pack_queries(images, self.number)
        return after, (own, self.places.pack(images))

    def forward_packed(self, x: Tensor, index: tuple[PackedQueries, Places]) -> Tensor:
        """``(rows, c) -> (images * n, out)``, at a budget."""
        own, places = index

        def attend(x: Tensor, mask: Tensor) -> Tensor:
            x = self.context_norm(call_linear(self.context_proj, x[None]))
            q, k = self.places(self.queries_norm(self.queries), x, places)
            return self._attend(q.repeat(len(own.mask), 1)[None], k, x, mask)[0]

        return attend_apart(attend, x, own)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        y: Tensor = self.proj(self.norm(self.attention(q, k, v, mask)))
        return y


class QueryPosition(nn.Module):
    """Add positions to queries and tokens; ``(n, c), (b, h, w, c) -> (n, c), (b, h, w, c)``.

    Or to packed images' tokens (1, rows, c), with what `pack` returns.

    Upstream saves the queries' table in the weights' dtype and interpolates what it saved. So the
    table is a parameter here too, but not a trained one.

    Args:
        number: The number n of queries.
        channels: The width c.
        kind: As `QueryResampler.places`.
    """

    table: nn.Parameter | None

    def __init__(self, number: int, channels: int, kind: str) -> None:
        super().__init__()
        self.kind = kind
        table = None
        if kind != "keys":
            self.side = square_side(number)
            position = sincos(self.side, self.side, channels).to(torch.get_default_dtype())
            table = nn.Parameter(position.flatten(0, 1), requires_grad=False)
        self.register_parameter("table", table)

    def forward(self, q: Tensor, x: Tensor, places: Places | None = None) -> tuple[Tensor, Tensor]:
        if places is None:
            h, w, channels = x.shape[1:]
            position = self._on_grid(h, w, channels, x.device)
        else:
            position = self._at(places, x.shape[-1])
        return q if self.table is None else q + self.table.to(q.dtype), x + position.to(x.dtype)

    def pack(self, images: Packing) -> Places:
        """Return where packed images' tokens are; for ``resized``, the shares of the table's."""
        if self.table is None or self.kind == "both":
            return coordinates(images)
        # Scaling treats the two axes apart, so scaling unit vectors tells all about a side.
        unit = torch.eye(self.side, dtype=_wide(self.table.dtype), device=images.device)
        shares = {
            side: _scaled(unit[None, :, :, None], side, 1)[0, :, :, 0].T.contiguous()
            for side in set(itertools.chain(*images.grids))
        }
        found = [torch.kron(shares[h], shares[w]) for h, w in images.grids]
        return images.padded(torch.cat([unit.new_empty(0, self.side**2), *found]), images.rows)

    def _on_grid(self, h: int, w: int, channels: int, device: torch.device) -> Tensor:
        """Return the positions of a grid, (h, w, c)."""
        if self.table is None or self.kind == "both":
            return sincos(h, w, channels, device)
        table = self.table.to(_wide(self.table.dtype))
        square = table.view(1, self.side, self.side, channels).permute(0, 3, 1, 2)
        return _scaled(square, h, w)[0].permute(1, 2, 0).to(self.table.dtype)

    def _at(self, places: Places, channels: int) -> Tensor:
        """Return the positions of packed images' tokens, (rows, c)."""
        if isinstance(places, Coordinates):
            return packed_sincos(places, channels)
        table = cast("Tensor", self.table)
        with torch.autocast(places.device.type, enabled=False):  # `_scaled` is not rounded either
            return (places @ table.to(places.dtype)).to(table.dtype)

    def extra_repr(self) -> str:
        return self.kind


def _wide(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype in which a table of this one is interpolated."""
    return torch.promote_types(dtype, torch.float32)


def _scaled(x: Tensor, h: int, w: int) -> Tensor:
    return F.interpolate(x, (h, w), mode="bicubic", align_corners=False)
