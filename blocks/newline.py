"""A learned token at the end of every row."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .core.block import Block
from .core.feature import Feature

__all__ = ["Newline", "NewlineModule"]


class Newline(Block):
    """Append the same learned token to every row; ``(b, h, w, c) -> (b, h, w + 1, c)``.

    The result is still a grid, row by row. Keys: ``token`` (c).
    """

    def flow(self, x: Feature) -> Feature:
        h, w = x.raster().grid
        return x.replace(grid=(h, None if w is None else w + 1))

    def build(self, x: Feature) -> nn.Module:
        return NewlineModule(x.channels)


class NewlineModule(nn.Module):
    """A column of one learned token; ``(b, h, w, c) -> (b, h, w + 1, c)``."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.token = nn.Parameter(torch.empty(channels))
        nn.init.trunc_normal_(self.token, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        column = self.token.to(x.dtype).expand(x.shape[0], x.shape[1], 1, -1)
        return torch.cat([x, column], 2)

    def extra_repr(self) -> str:
        return f"{self.channels}"
