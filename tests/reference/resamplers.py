"""Resamplers that transformers has not: their published computations in plain torch.

From `open_flamingo/src/helpers.py`, and from `resampler.py` and `visual.py` of the models.
"""

from math import isqrt

import torch
from torch import Tensor, nn

from .case import Grid


class OpenFlamingoAttention(nn.Module):
    def __init__(self, dim: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_media = nn.LayerNorm(dim)
        self.norm_latents = nn.LayerNorm(dim)
        self.to_q = nn.Linear(dim, heads * head_dim, bias=False)
        self.to_kv = nn.Linear(dim, 2 * heads * head_dim, bias=False)
        self.to_out = nn.Linear(heads * head_dim, dim, bias=False)

    def forward(self, x: Tensor, latents: Tensor) -> Tensor:
        x, latents = self.norm_media(x), self.norm_latents(latents)
        k, v = self.to_kv(torch.cat((x, latents), 1)).chunk(2, -1)
        q, k, v = (t.unflatten(2, (self.heads, -1)) for t in (self.to_q(latents), k, v))
        scores = torch.einsum("bnhd,bmhd->bhnm", q * q.shape[-1] ** -0.5, k)
        y = torch.einsum("bhnm,bmhd->bnhd", scores.softmax(-1), v)
        out: Tensor = self.to_out(y.flatten(2))
        return out


class OpenFlamingo(nn.Module):
    def __init__(self, dim: int, depth: int, heads: int, head_dim: int, n: int) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.randn(n, dim))
        self.layers = nn.ModuleList(
            nn.ModuleList(
                [
                    OpenFlamingoAttention(dim, heads, head_dim),
                    nn.Sequential(
                        nn.LayerNorm(dim),
                        nn.Linear(dim, 4 * dim, bias=False),
                        nn.GELU(),
                        nn.Linear(4 * dim, dim, bias=False),
                    ),
                ]
            )
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        latents = self.latents.repeat(len(x), 1, 1)
        for attention, ffn in self.layers:
            latents = attention(x, latents) + latents
            latents = ffn(latents) + latents
        y: Tensor = self.norm(latents)
        return y


class QueryPool(nn.Module):
    """The attention of Qwen-VL's Resampler and of MiniCPM-V's, of which later ones lack a table.

    `places`: ``keys`` (2.5 and later), ``both`` (2.0, called adaptive there) or ``resized``.
    """

    def __init__(self, kv_dim: int, dim: int, heads: int, n: int, places: str) -> None:
        super().__init__()
        self.places = places
        if places != "keys":
            table = published_places(dim, isqrt(n), isqrt(n)).flatten(0, 1)
            self.pos_embed = nn.Parameter(table, requires_grad=False)
        self.query = nn.Parameter(torch.zeros(n, dim))
        self.kv_proj = nn.Identity() if kv_dim == dim else nn.Linear(kv_dim, dim, bias=False)
        self.attn = nn.MultiheadAttention(dim, heads)
        self.ln_q = nn.LayerNorm(dim, 1e-6)
        self.ln_kv = nn.LayerNorm(dim, 1e-6)

    def key_places(self, x: Tensor, grid: Grid) -> Tensor:
        if self.places == "resized":
            return resized(self.pos_embed, grid)
        return published_places(x.shape[-1], *grid).flatten(0, 1).to(x.dtype)

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        x = self.ln_kv(self.kv_proj(x)).permute(1, 0, 2)
        q = self.ln_q(self.query)[:, None].repeat(1, x.shape[1], 1)
        if self.places != "keys":
            q = q + self.pos_embed[:, None]
        y: Tensor = self.attn(q, x + self.key_places(x, grid)[:, None], x)[0]
        return y.permute(1, 0, 2)


class MiniCPMV(QueryPool):
    def __init__(self, kv_dim: int, dim: int, heads: int, n: int, places: str = "keys") -> None:
        super().__init__(kv_dim, dim, heads, n, places)
        self.ln_post = nn.LayerNorm(dim, 1e-6)
        self.proj = nn.Parameter(torch.randn(dim, dim))

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        y: Tensor = self.ln_post(super().forward(x, grid)) @ self.proj
        return y


class QwenVL(nn.Module):
    """The tail of Qwen-VL's VisionTransformer, its `visual.py`."""

    def __init__(self, width: int, dim: int, heads: int, n: int) -> None:
        super().__init__()
        self.attn_pool = QueryPool(width, dim, heads, n, "resized")
        self.ln_post = nn.LayerNorm(dim, 1e-6)
        self.proj = nn.Parameter(torch.randn(dim, dim))

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        y: Tensor = self.ln_post(self.attn_pool(x, grid)) @ self.proj
        return y


def resized(table: Tensor, grid: Grid) -> Tensor:
    """get_abs_pos: (n, c) -> (h * w, c); upstream knows squares only, vLLM any grid."""
    side = isqrt(len(table))
    square = table.float().reshape(1, side, side, -1).permute(0, 3, 1, 2)
    scaled = nn.functional.interpolate(square, grid, mode="bicubic", align_corners=False)
    return scaled.permute(0, 2, 3, 1).flatten(0, 2).to(table.dtype)


def published_places(dim: int, h: int, w: int) -> Tensor:
    """MAE's sines and cosines, the column ("here w goes first") before the row, in float64."""

    def one(positions: Tensor) -> Tensor:
        omega = torch.arange(dim // 4, dtype=torch.float64) / (dim / 4)
        out = torch.einsum("hw,d->hwd", positions, 1.0 / 10000**omega)
        return torch.cat([torch.sin(out), torch.cos(out)], -1)

    rows, columns = torch.meshgrid(
        torch.arange(h, dtype=torch.float64), torch.arange(w, dtype=torch.float64), indexing="ij"
    )
    return torch.cat([one(columns), one(rows)], -1).float()
