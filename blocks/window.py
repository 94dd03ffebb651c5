"""Windows on grids: one gather reads the windows of a whole packed batch of images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from .feature import Grid

__all__ = ["PackedModule", "take", "window_index"]


@runtime_checkable
class PackedModule(Protocol):
    """A module that takes packed images of different sizes in one go."""

    def forward_packed(self, x: Tensor, grids: Sequence[Grid]) -> Tensor:
        """``(n, c), n = sum(h * w) -> (m, d)``, the images' outputs one after the other."""
        ...


def window_index(
    grids: Sequence[Grid],
    size: Grid,
    *,
    ceil: bool,
    device: torch.device,
    transpose: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Return which tokens stand in each window, image after image, windows row by row.

    Args:
        grids: The images' grids.
        size: The windows' sides, which are their steps too.
        ceil: Keep windows cut off by the border; otherwise they are dropped.
        device: Where to put the tensors.
        transpose: Go through the windows column by column, not row by row.

    Returns:
        The index of the tokens (m, size[0] * size[1]) into the packed tokens, and which of them
        the images hold, of the same shape; None if all. A token outside repeats one inside.
    """
    sh, sw = size
    sides = torch.tensor(grids, device=device)
    h, w = sides.unbind(1)
    rows, columns = ((h + sh - 1) // sh, (w + sw - 1) // sw) if ceil else (h // sh, w // sw)
    windows = rows * columns
    start = (h * w).cumsum(0) - h * w
    first = windows.cumsum(0) - windows
    # For each window: its image's width, height, offset; then its row and column in that image.
    image = torch.repeat_interleave(torch.arange(len(grids), device=device), windows)
    number = torch.arange(len(image), device=device) - first[image]
    if transpose:
        row, column = number % rows[image], number // rows[image]
    else:
        row, column = number // columns[image], number % columns[image]
    dy = torch.arange(sh, device=device).repeat_interleave(sw)
    dx = torch.arange(sw, device=device).repeat(sh)
    y, x = row[:, None] * sh + dy, column[:, None] * sw + dx
    height, width = h[image][:, None], w[image][:, None]
    inside = None
    if ceil and any(side_h % sh or side_w % sw for side_h, side_w in grids):
        inside = (y < height) & (x < width)
        y, x = y.minimum(height - 1), x.minimum(width - 1)
    return start[image][:, None] + y * width + x, inside


def take(x: Tensor, index: Tensor) -> Tensor:
    """Read the windows' tokens; ``(n, c), (m, k) -> (m, k, c)``."""
    return x.index_select(0, index.flatten()).view(*index.shape, x.shape[1])
