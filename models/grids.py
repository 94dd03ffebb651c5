"""The grids that come out of a projector, also for what transformers calls ``image_grid_thw``."""

from __future__ import annotations

from torch import Tensor

from ..blocks.core.feature import Grid
from ..projectors.stack import Stack

__all__ = ["frames_of", "merged_from", "out_grid", "out_rows", "tokens_of"]


def out_grid(stack: Stack, grid: Grid | None) -> Grid | None:
    """Return the grid (h, w) that comes out for one that goes in; None if a sequence comes out.

    Raises:
        GridError: A block does not take the grid.
    """
    y = stack.walk(grid or (None, None))[-1].y
    h, w = y.grid
    return None if y.layout != "raster" or h is None or w is None else (h, w)


def out_rows(stack: Stack, grid: Grid) -> Grid:
    """Return how many rows come out for a grid, and how long they are; a sequence is one row.

    Raises:
        GridError: A block does not take the grid.
    """
    return out_grid(stack, grid) or (1, stack.tokens(*grid))


def frames_of(grid_thw: Tensor) -> list[Grid]:
    """Return the grid of each frame, one after the other; ``(n, 3) -> sum(t)`` grids."""
    return [(h, w) for t, h, w in grid_thw.tolist() for _ in range(t)]


def tokens_of(stack: Stack, grid_thw: Tensor) -> list[int]:
    """Return how many tokens come out for each image or video; those of its frames together."""
    return [t * stack.tokens(h, w) for t, h, w in grid_thw.tolist()]


def merged_from(stack: Stack, grid_thw: Tensor) -> Tensor:
    """Return the grids from which upstream's merge would make what comes out; ``(n, 3)``.

    Upstream divides a grid's sides by those of its merge wherever it needs to know what comes out.
    """
    side = stack.token_block
    known: dict[Grid, Grid] = {}
    rows = []
    for t, h, w in grid_thw.tolist():
        if (h, w) not in known:
            known[h, w] = out_rows(stack, (h, w))
        rows.append((t, known[h, w][0] * side, known[h, w][1] * side))
    return grid_thw.new_tensor(rows).view(-1, 3)
