"""Position embeddings added to the feature."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import model_validator
from torch import Tensor, nn

from .core.block import Block
from .core.errors import GridError, SpecError
from .core.feature import Feature, Grid
from .pool import GridSize

__all__ = [
    "AxesPosition",
    "FramePosition",
    "LearnedPosition",
    "Position",
    "SincosPosition",
    "check_sincos",
    "sincos",
]


class Position(Block):
    """Add a position embedding to each token of the grid; ``(b, h, w, c) -> (b, h, w, c)``.

    Sines and cosines have no parameters; learned embeddings are drawn from a normal distribution of
    standard deviation 0.02. Keys: ``table`` (h * w, c) for ``learned``; ``rows`` (h, c) and
    ``columns`` (w, c) for ``axes``.

    Attributes:
        kind: ``learned``: a vector for each position of the grid given at build, and for that grid
            only; ``axes``: one for each row plus one for each column, of which smaller grids use
            the first, as in encoder-free Gemma 4; ``sincos``: sines and cosines of column and row,
            for any grid; ``frame``: sines and cosines, by turns, of the number of a video's frame,
            of which an image is the first (zeros and ones), as in Florence-2.
        size: For ``axes``: the largest grid (h, w).
        join: For ``axes``: ``add`` the two vectors; or ``cat``, where the first half of the
            channels gets the column's and the other half the row's, as in Florence-2.
    """

    kind: Literal["learned", "axes", "sincos", "frame"] = "learned"
    size: GridSize | None = None
    join: Literal["add", "cat"] = "add"

    @model_validator(mode="after")
    def _check_size(self) -> Position:
        if (self.kind == "axes") == (self.size is None):
            needs = "needs" if self.kind == "axes" else "takes no"
            raise SpecError(f"kind {self.kind!r} {needs} 'size'")
        if self.join != "add" and self.kind != "axes":
            raise SpecError(f"'join' is an option of kind 'axes', not {self.kind!r}")
        return self

    def flow(self, x: Feature) -> Feature:
        if self.size is not None:
            _check_within(x.raster().grid, self.size)
        if self.kind == "sincos":
            check_sincos(x.raster().channels)
        if (self.kind == "frame" or self.join == "cat") and x.raster().channels % 2:
            raise SpecError(f"{x.channels} channels have no halves", expected="an even number")
        return x

    def build(self, x: Feature) -> nn.Module:
        if self.kind == "sincos":
            return SincosPosition()
        if self.kind == "frame":
            return FramePosition()
        if self.size is not None:
            return AxesPosition(*self.size, x.channels, cat=self.join == "cat")
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
        GridError: The grid differs.
    """

    def __init__(self, h: int, w: int, channels: int) -> None:
        super().__init__()
        self.grid = (h, w)
        self.channels = channels
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
        return f"{self.grid[0]}x{self.grid[1]}, {self.channels}"


class SincosPosition(nn.Module):
    """``x + sincos``; ``(b, h, w, c) -> (b, h, w, c)`` for any grid."""

    def forward(self, x: Tensor) -> Tensor:
        return x + sincos(x.shape[1], x.shape[2], x.shape[3], x.device).to(x.dtype)


def check_sincos(channels: int) -> None:
    """Refuse a width that is not a multiple of four.

    Raises:
        SpecError: It is not a multiple of 4.
    """
    if channels % 4:
        raise SpecError(
            f"{channels} channels do not hold sine and cosine of column and row",
            expected="a multiple of 4",
        )


def sincos(h: int, w: int, channels: int, device: torch.device | None = None) -> Tensor:
    """Return the positions of a grid as sines and cosines; ``(h, w, c)`` in fp32.

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


class FramePosition(nn.Module):
    """Add sines and cosines of 0, by turns: 0, 1, 0, 1, ...; ``(b, h, w, c) -> (b, h, w, c)``."""

    def forward(self, x: Tensor) -> Tensor:
        return x + (torch.arange(x.shape[-1], device=x.device) % 2).to(x.dtype)


class AxesPosition(nn.Module):
    """``x + rows + columns``; ``(b, h, w, c) -> (b, h, w, c)`` for grids up to its own.

    Args:
        h: The largest number of rows.
        w: The largest number of columns.
        channels: The width c.
        cat: Whether the columns' vectors stand beside the rows', not on top of them.

    Raises:
        GridError: The grid is larger.
    """

    def __init__(self, h: int, w: int, channels: int, *, cat: bool = False) -> None:
        super().__init__()
        self.size = (h, w)
        self.channels = channels
        self.cat = cat
        width = channels // 2 if cat else channels
        self.rows = nn.Parameter(torch.empty(h, width))
        self.columns = nn.Parameter(torch.empty(w, width))
        for table in (self.rows, self.columns):
            nn.init.trunc_normal_(table, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[1:3]
        _check_within((h, w), self.size)
        rows, columns = self.rows[:h, None], self.columns[:w]
        if self.cat:
            table = torch.cat([columns.expand(h, -1, -1), rows.expand(-1, w, -1)], -1)
        else:
            table = rows + columns
        return x + table.to(x.dtype)

    def extra_repr(self) -> str:
        return f"up to {self.size[0]}x{self.size[1]}, {self.channels}, cat={self.cat}"


def _check_within(grid: tuple[int | None, int | None], size: Grid) -> None:
    if any(side is not None and side > limit for side, limit in zip(grid, size, strict=True)):
        raise GridError(
            f"a grid of {grid[0]}x{grid[1]}, but its tables are for {size[0]}x{size[1]}",
            expected="a grid no larger",
        )
