"""Positions added to the feature."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from .block import Block
from .errors import GridError, SpecError
from .feature import Feature

__all__ = ["LearnedPosition", "Position"]


class Position(Block):
    """Add a learned vector to each place of the grid; ``(b, h, w, c) -> (b, h, w, c)``.

    The table is made for the grid given at build, and takes that grid only. Keys: ``table``
    (h * w, c).

    Attributes:
        kind: ``learned``: a table without structure, from a normal distribution of spread 0.02.
    """

    kind: Literal["learned"] = "learned"

    def build(self, x: Feature) -> nn.Module:
        h, w = x.grid
        if h is None or w is None:
            raise SpecError(
                "the grid is not known, and a learned table has a row for each place",
                "position",
                hint="Give grid=(h, w) at build.",
            )
        return LearnedPosition(h, w, x.channels)


class LearnedPosition(nn.Module):
    """``x + table``; ``(b, h, w, c) -> (b, h, w, c)`` for one grid.

    Raises:
        GridError: It is another grid.
    """

    def __init__(self, h: int, w: int, channels: int) -> None:
        super().__init__()
        self.grid = (h, w)
        self.table = nn.Parameter(torch.empty(h * w, channels))
        nn.init.trunc_normal_(self.table, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        h, w = self.grid
        if x.shape[1] != h or x.shape[2] != w:
            raise GridError(
                f"a grid of {x.shape[1]}x{x.shape[2]}, but its table is for {h}x{w}",
                "position",
                "the grid given at build",
            )
        return x + self.table.to(x.dtype).view(h, w, -1)

    def extra_repr(self) -> str:
        return f"{self.grid[0]}x{self.grid[1]}, {self.table.shape[1]}"
