"""Projectors that transformers has not: their published computations in plain torch."""

import torch
from torch import Tensor, nn

from .case import Grid, Sizes


class DeepseekVL2(nn.Module):
    """MlpProjector of deepseek-ai/DeepSeek-VL2, its published computation: downsample_mlp_gelu."""

    def __init__(self, s: Sizes, depth: int, ratio: int, side: int = 2) -> None:
        super().__init__()
        self.side = side
        layers: list[nn.Module] = [nn.Linear(side * side * s.v, s.d * ratio)]
        for _ in range(1, depth - 1):
            layers += [nn.GELU(), nn.Linear(s.d * ratio, s.d * ratio)]
        layers += [nn.GELU(), nn.Linear(s.d * ratio, s.d)]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        (h, w), side = grid, self.side
        x = x.transpose(1, 2).unflatten(2, grid)
        x = nn.functional.pad(x, (0, -w % side, 0, -h % side))
        y: Tensor = self.layers(nn.functional.unfold(x, side, stride=side).transpose(1, 2))
        return y


class Nvila(nn.Module):
    """MultimodalProjector of NVlabs/VILA, its published computation: mlp_downsample_{n}x{n}_fix."""

    def __init__(self, s: Sizes, side: int) -> None:
        super().__init__()
        self.side, wide = side, side * side * s.v
        inner = [
            nn.Linear(wide, 3 * s.v),
            nn.GELU(),
            nn.LayerNorm(3 * s.v),
            nn.Linear(3 * s.v, s.d),
        ]
        first = [nn.Linear(wide, s.d)] if side == 2 else inner
        self.layers = nn.Sequential(
            nn.Identity(), nn.LayerNorm(wide), *first, nn.GELU(), nn.Linear(s.d, s.d)
        )

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """Upstream's own views, which call the height w and the width h."""
        s = self.side
        x = x.unflatten(1, grid)
        n, w, h, c = x.shape
        x = torch.cat([x, x.new_zeros(n, -w % s, h, c)], 1)
        x = torch.cat([x, x.new_zeros(n, w + -w % s, -h % s, c)], 2)
        n, w, h, c = x.shape
        y = x.view(n, w, h // s, c * s).permute(0, 2, 1, 3).contiguous()
        y = y.view(n, h // s, w // s, c * s * s).permute(0, 2, 1, 3)
        z: Tensor = self.layers(y.flatten(1, 2))
        return z


class Pooler(nn.Module):
    """PoolerProjector of LLaVA-VL/LLaVA-NeXT, its published computation."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.conv_pool = nn.Conv2d(s.v, s.d, kernel_size=2, stride=2)
        self.proj = nn.Sequential(nn.GELU(), nn.Linear(s.d, s.d))

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        y = self.conv_pool(x.transpose(1, 2).unflatten(2, grid))
        z: Tensor = self.proj(y.flatten(2).transpose(1, 2))
        return z


class ColumnMajor(nn.Module):
    """InternVL's first pixel shuffle, which leaves the tokens column by column."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.layer_norm = nn.LayerNorm(4 * s.v)
        self.linear_1, self.linear_2 = nn.Linear(4 * s.v, s.d), nn.Linear(s.d, s.d)

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """Upstream's own views: n, w, h, c -> n, w, h/2, 2c -> n, h/2, w/2, 4c, and no more."""
        n, w, h, c = x.unflatten(1, grid).size()
        y = x.view(n, w, h // 2, 2 * c).permute(0, 2, 1, 3).contiguous()
        y = y.view(n, h // 2, w // 2, 4 * c).flatten(1, 2)
        z: Tensor = self.linear_2(nn.functional.gelu(self.linear_1(self.layer_norm(y))))
        return z


class TokenPacker(nn.Module):
    """TokenPacker of CircleRadon/TokenPacker, its published computation.

    Upstream is given the last of the levels that are joined a second time, for the queries.
    """

    def __init__(self, s: Sizes, width: int, heads: int, side: int, levels: int = 4) -> None:
        super().__init__()
        self.width, self.side = s.v, side
        self.q_proj_1 = nn.Linear(s.v, width, bias=False)
        self.k_proj_1, self.v_proj_1 = (
            nn.Sequential(nn.Linear(levels * s.v, width), nn.GELU(), nn.Linear(width, width))
            for _ in "kv"
        )
        self.ln_q_1, self.ln_k_1, self.ln_v_1 = (nn.LayerNorm(width, 1e-6) for _ in "qkv")
        self.clip_attn = nn.MultiheadAttention(width, heads)
        self.mlp = nn.Sequential(nn.Linear(width, s.d), nn.GELU(), nn.Linear(s.d, s.d))

    def windows(self, x: Tensor, grid: Grid) -> Tensor:
        """``(b, n, c) -> (side * side, b * m, c)``."""
        image = x.transpose(1, 2).unflatten(2, grid)
        columns = nn.functional.unfold(image, self.side, stride=self.side)
        return columns.unflatten(1, (x.shape[2], -1)).permute(2, 0, 3, 1).flatten(1, 2)

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        last = x[..., -self.width :].transpose(1, 2).unflatten(2, grid)
        coarse = nn.functional.interpolate(
            last, [side // self.side for side in grid], mode="bilinear"
        )
        q = self.ln_q_1(self.q_proj_1(coarse.flatten(2).transpose(1, 2)))
        k, v = self.ln_k_1(self.k_proj_1(x)), self.ln_v_1(self.v_proj_1(x))
        k, v = self.windows(k, grid), self.windows(v, grid)
        y = self.clip_attn(q.flatten(0, 1)[None], k, v)[0]
        z: Tensor = self.mlp(y.reshape(q.shape))
        return z
