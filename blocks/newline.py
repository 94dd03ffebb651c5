"""A learned token at the end of every row."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .core.block import Block
from .core.feature import Feature
from .core.packing import Packing, tensor_of

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

    by_size = True

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.token = nn.Parameter(torch.empty(channels))
        nn.init.trunc_normal_(self.token, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        column = self.token.to(x.dtype).expand(x.shape[0], x.shape[1], 1, -1)
        return torch.cat([x, column], 2)

    def pack(self, images: Packing) -> tuple[Packing, Tensor]:
        # A row of one token becomes two, so at most twice as many come out.
        after = images.after([(h, w + 1) for h, w in images.grids], 2 * images.rows)
        image, row, column = after.places()
        w = tensor_of([w for _, w in images.grids], images.device)[image]
        index = images.starts()[image] + row * w + column
        index = index.masked_fill(column == w, images.rows)
        return after, images.padded(index, after.rows, images.rows)

    def forward_packed(self, x: Tensor, index: Tensor) -> Tensor:
        """``(rows, c) -> (m, c)``."""
        return F.embedding(index, torch.cat([x, self.token.to(x.dtype)[None]]))

    def extra_repr(self) -> str:
        return f"{self.channels}"
