"""Windows on grids: one gather reads the windows of all packed images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn import functional as F

from .feature import Grid

__all__ = ["PackedModule", "take", "window_index"]


@runtime_checkable
class PackedModule(Protocol):
    """A module that takes packed images of different sizes in one call."""

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
    """Return the tokens of each window, image after image, windows row by row.

    Args:
        grids: The images' grids.
        size: The windows' sides, which are also their strides.
        ceil: Keep windows cut off by the border; otherwise they are dropped.
        device: Where to put the tensors.
        transpose: Order the windows column by column.

    Returns:
        The indices of the windows' tokens, (m, size[0] * size[1]), and a mask of the same shape,
        true for tokens inside the images, or None if all are. Outside, the index of a token inside
        is repeated.
    """
    sh, sw = size
    shapes = [(-(-h // sh), -(-w // sw)) if ceil else (h // sh, w // sw) for h, w in grids]
    total = sum(rows * columns for rows, columns in shapes)
    h, w, rows, columns = torch.tensor(
        [(*grid, *shape) for grid, shape in zip(grids, shapes, strict=True)], device=device
    ).unbind(1)
    windows = rows * columns
    start = (h * w).cumsum(0) - h * w
    first = windows.cumsum(0) - windows
    # For each window: its image, and its row and column there. output_size spares an accelerator
    # the synchronisation, and a compiler the graph break.
    image = torch.repeat_interleave(windows, output_size=total)
    number = torch.arange(total, device=device) - first[image]
    if transpose:
        row, column = number % rows[image], number // rows[image]
    else:
        row, column = number // columns[image], number % columns[image]
    top, left, width = row[:, None] * sh, column[:, None] * sw, w[image][:, None]
    dy = torch.arange(sh, device=device).repeat_interleave(sw)
    dx = torch.arange(sw, device=device).repeat(sh)
    inside = None
    if ceil and any(side_h % sh or side_w % sw for side_h, side_w in grids):
        below, right = h[image][:, None] - top, width - left
        inside = (dy < below) & (dx < right)
        dy, dx = dy.minimum(below - 1), dx.minimum(right - 1)
    return start[image][:, None] + top * width + left + (dy * width + dx), inside


def take(x: Tensor, index: Tensor, inside: Tensor | None = None) -> Tensor:
    """Gather the windows' tokens, zeros where not `inside`; ``(n, c), (m, k) -> (m, k, c)``."""
    y = F.embedding(index, x)
    return y if inside is None else y.masked_fill(~inside[..., None], 0)
