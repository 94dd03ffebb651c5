"""One cross-attention from learned queries to tokens that know where they stand."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .attention import Attention, Heads, Queries, head_width, queries
from .block import Block
from .errors import SpecError
from .feature import Feature, Width

__all__ = ["QueryResampler", "QueryResamplerModule", "sincos"]

_EPS = 1e-6


class QueryResampler(Block):
    """Let learned queries read the tokens and their places; ``(b, h, w, c) -> (b, 1, n, out)``.

    ``x = LN(linear(x))``, then ``proj(LN(attention(LN(queries), x + places, x)))``, where the
    places are sines and cosines of column and row, so that any grid will do. A linear layer
    without bias maps the tokens to `out`, unless they are of that width already; the attention's
    layers have biases, `proj` has none, and the eps is 1e-6. Source: the resampler of MiniCPM-V
    2.5 to 2.6 (its `resampler.py`; also vLLM's `Resampler2_5`). Keys: ``queries`` (n, out),
    ``context_proj``, ``context_norm``, ``queries_norm``, ``attention``, ``norm``, ``proj``.

    Attributes:
        out: The output width.
        queries: The number n of queries.
        heads: The number of heads, which divides `out`.
    """

    out: Width = "out"
    queries: Queries = 64
    heads: Heads = 16

    def flow(self, x: Feature) -> Feature:
        out = x.raster().width(self.out)
        head_width(out, self.heads)
        if out % 4:
            raise SpecError(
                f"{out} channels do not hold sine and cosine of column and row",
                expected="a multiple of 4",
            )
        return x.replace(channels=out, grid=(1, self.queries), layout="sequence")

    def build(self, x: Feature) -> nn.Module:
        return QueryResamplerModule(x.channels, x.width(self.out), self.queries, self.heads)


class QueryResamplerModule(nn.Module):
    """Queries read tokens and their places; ``(b, h, w, c) -> (b, 1, n, out)``.

    Args:
        in_: The tokens' width c.
        out: The queries' and the output's width.
        number: The number n of queries.
        heads: The number of heads.
    """

    def __init__(self, in_: int, out: int, number: int, heads: int) -> None:
        super().__init__()
        self.queries = queries(number, out, 0.02)
        self.context_proj = nn.Identity() if in_ == out else nn.Linear(in_, out, bias=False)
        self.context_norm = nn.LayerNorm(out, _EPS)
        self.queries_norm = nn.LayerNorm(out, _EPS)
        self.attention = Attention(out, out, heads, head_width(out, heads))
        self.norm = nn.LayerNorm(out, _EPS)
        self.proj = nn.Linear(out, out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.context_norm(self.context_proj(x))
        places = sincos(x.shape[1], x.shape[2], x.shape[3], x.device).to(x.dtype)
        q = self.queries_norm(self.queries).expand(x.shape[0], -1, -1)
        y = self.attention(q, (x + places).flatten(1, 2), x.flatten(1, 2))
        out: Tensor = self.proj(self.norm(y))
        return out[:, None]


def sincos(h: int, w: int, channels: int, device: torch.device) -> Tensor:
    """Return each place of a grid as sines and cosines; ``(h, w, c)`` in fp32.

    A quarter of the channels each: sines of the column, its cosines, sines of the row, its
    cosines; the frequencies fall from 1 to almost 1/10,000. Source: MAE's `pos_embed.py`.
    """
    steps = torch.arange(channels // 4, dtype=torch.float32, device=device)
    frequencies = 1.0 / 10000 ** (steps / (channels // 4))
    column, row = (
        torch.cat([angle.sin(), angle.cos()], -1)
        for side in (w, h)
        for angle in [torch.arange(side, dtype=torch.float32, device=device)[:, None] * frequencies]
    )
    return torch.cat([column.expand(h, w, -1), row[:, None].expand(h, w, -1)], -1)
