"""Position embeddings added to the feature."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from pydantic import model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from .core.block import Block
from .core.errors import GridError, SpecError
from .core.feature import Feature, Grid
from .core.packing import Packing
from .pool import GridSize

__all__ = [
    "AxesPosition",
    "Coordinates",
    "FramePosition",
    "LearnedPosition",
    "Position",
    "SincosPosition",
    "check_sincos",
    "coordinates",
    "packed_sincos",
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


class Coordinates(NamedTuple):
    """The row and the column of each packed token, (rows,) each."""

    row: Tensor
    column: Tensor


def coordinates(images: Packing) -> Coordinates:
    """Return where packed images' tokens are; 0 in a budget's padding."""
    _, row, column = images.places()
    return Coordinates(images.padded(row, images.rows), images.padded(column, images.rows))


class LearnedPosition(nn.Module):
    """``x + table``; ``(b, h, w, c) -> (b, h, w, c)`` for one grid.

    Raises:
        GridError: The grid differs.
    """

    by_size = True

    def __init__(self, h: int, w: int, channels: int) -> None:
        super().__init__()
        self.grid = (h, w)
        self.channels = channels
        self.table = nn.Parameter(torch.empty(h * w, channels))
        nn.init.trunc_normal_(self.table, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        self._check(x.shape[1], x.shape[2])
        return x + self.table.to(x.dtype).view(*self.grid, -1)

    def pack(self, images: Packing) -> tuple[Packing, Tensor]:
        for grid in images.grids:
            self._check(*grid)
        return images, torch.arange(images.rows, device=images.device) % len(self.table)

    def forward_packed(self, x: Tensor, index: Tensor) -> Tensor:
        """``(rows, c) -> (rows, c)``."""
        return x + F.embedding(index, self.table.to(x.dtype))

    def _check(self, rows: int, columns: int) -> None:
        h, w = self.grid
        if rows != h or columns != w:
            raise GridError(
                f"a grid of {rows}x{columns}, but its table is for {h}x{w}",
                "position",
                "the grid given at build",
            )

    def extra_repr(self) -> str:
        return f"{self.grid[0]}x{self.grid[1]}, {self.channels}"


class SincosPosition(nn.Module):
    """``x + sincos``; ``(b, h, w, c) -> (b, h, w, c)`` for any grid."""

    by_size = True

    def forward(self, x: Tensor) -> Tensor:
        return x + sincos(x.shape[1], x.shape[2], x.shape[3], x.device).to(x.dtype)

    def pack(self, images: Packing) -> tuple[Packing, Coordinates]:
        return images, coordinates(images)

    def forward_packed(self, x: Tensor, index: Coordinates) -> Tensor:
        """``(rows, c) -> (rows, c)``."""
        return x + packed_sincos(index, x.shape[1]).to(x.dtype)


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
    column, row = (_waves(torch.arange(side, device=device), channels // 2) for side in (w, h))
    return torch.cat([column.expand(h, w, -1), row[:, None].expand(h, w, -1)], -1)


def packed_sincos(index: Coordinates, channels: int) -> Tensor:
    """Return `sincos` of packed images' tokens; ``(rows, c)`` in fp32."""
    # No side is longer than there are rows.
    numbers = torch.arange(len(index.row), device=index.row.device)
    table = _waves(numbers, channels // 2)
    return torch.cat([F.embedding(index.column, table), F.embedding(index.row, table)], -1)


def _waves(numbers: Tensor, channels: int) -> Tensor:
    """Return sines and then cosines of whole numbers, as in `sincos`; ``(n,) -> (n, c)`` in fp32.

    Half of the channels each; the frequencies fall from 1 to almost 1/10,000.
    """
    steps = torch.arange(channels // 2, dtype=torch.float32, device=numbers.device)
    frequencies = 1.0 / 10000 ** (steps / (channels // 2))
    angle = numbers.to(torch.float32)[:, None] * frequencies
    return torch.cat([angle.sin(), angle.cos()], -1)


class FramePosition(nn.Module):
    """Add sines and cosines of 0, by turns: 0, 1, 0, 1, ...; ``(b, h, w, c) -> (b, h, w, c)``."""

    by_size = True

    def forward(self, x: Tensor) -> Tensor:
        return x + (torch.arange(x.shape[-1], device=x.device) % 2).to(x.dtype)

    def pack(self, images: Packing) -> tuple[Packing, None]:
        return images, None  # all tokens are treated alike

    def forward_packed(self, x: Tensor, index: None) -> Tensor:
        """``(rows, c) -> (rows, c)``."""
        return self.forward(x)


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

    by_size = True

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
            rows, columns = rows.expand(-1, w, -1), columns.expand(h, -1, -1)
        return x + self._table(rows, columns).to(x.dtype)

    def pack(self, images: Packing) -> tuple[Packing, Coordinates]:
        for grid in images.grids:
            _check_within(grid, self.size)
        return images, coordinates(images)

    def forward_packed(self, x: Tensor, index: Coordinates) -> Tensor:
        """``(rows, c) -> (rows, c)``."""
        rows, columns = F.embedding(index.row, self.rows), F.embedding(index.column, self.columns)
        return x + self._table(rows, columns).to(x.dtype)

    def _table(self, rows: Tensor, columns: Tensor) -> Tensor:
        return torch.cat([columns, rows], -1) if self.cat else rows + columns

    def extra_repr(self) -> str:
        return f"up to {self.size[0]}x{self.size[1]}, {self.channels}, cat={self.cat}"


def _check_within(grid: tuple[int | None, int | None], size: Grid) -> None:
    if any(side is not None and side > limit for side, limit in zip(grid, size, strict=True)):
        raise GridError(
            f"a grid of {grid[0]}x{grid[1]}, but its tables are for {size[0]}x{size[1]}",
            expected="a grid no larger",
        )
