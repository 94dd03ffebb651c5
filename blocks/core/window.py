"""Windows and neighbours on grids: one gather reads those of all packed images."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from .feature import Grid
from .packing import Packing, tensor_of

__all__ = ["Windows", "average", "most_windows", "neighbours", "take", "windows"]


class Windows(NamedTuple):
    """The tokens of each window, image after image, windows row by row.

    Attributes:
        tokens: The rows of the windows' tokens, (m, k).
        inside: A mask of the same shape, true for tokens inside the images, or None if all are.
            Outside, the row of a token inside is repeated.
    """

    tokens: Tensor
    inside: Tensor | None


def windows(
    images: Packing, size: Grid, *, ceil: bool, transpose: bool = False
) -> tuple[Packing, Windows]:
    """Cut packed images into windows.

    Args:
        images: The images.
        size: The windows' sides, which are also their strides.
        ceil: Keep windows cut off by the border; otherwise they are dropped.
        transpose: Order the windows column by column.

    Returns:
        The windows of each image as a grid, and their tokens. With a budget, there is a mask
        wherever a border could cut a window off.
    """
    (sh, sw), grids = size, images.grids
    shapes = [(-(-h // sh), -(-w // sw)) if ceil else (h // sh, w // sw) for h, w in grids]
    total = sum(rows * columns for rows, columns in shapes)
    sides = [(*grid, *shape) for grid, shape in zip(grids, shapes, strict=True)]
    h, w, rows, columns = tensor_of(sides, images.device).view(-1, 4).unbind(1)
    count = rows * columns
    start = (h * w).cumsum(0) - h * w
    first = count.cumsum(0) - count
    # For each window: its image, and its row and column there. output_size spares an accelerator
    # the synchronisation, and a compiler the graph break.
    image = torch.repeat_interleave(count, output_size=total)
    number = torch.arange(total, device=images.device) - first[image]
    if transpose:
        row, column = number % rows[image], number // rows[image]
    else:
        row, column = number // columns[image], number % columns[image]
    top, left, width = row[:, None] * sh, column[:, None] * sw, w[image][:, None]
    dy = torch.arange(sh, device=images.device).repeat_interleave(sw)
    dx = torch.arange(sw, device=images.device).repeat(sh)
    inside = None
    if ceil and (images.fixed or any(side_h % sh or side_w % sw for side_h, side_w in grids)):
        below, right = h[image][:, None] - top, width - left
        inside = (dy < below) & (dx < right)
        dy, dx = dy.minimum(below - 1), dx.minimum(right - 1)
    index = start[image][:, None] + top * width + left + (dy * width + dx)
    after = images.after(
        [shape[::-1] for shape in shapes] if transpose else shapes,
        most_windows(images, size) if ceil else images.rows // (sh * sw),
    )
    index = images.padded(index, after.rows)
    if inside is not None:  # a window beyond the images has all its tokens: no division by zero
        inside = images.padded(inside, after.rows, True)
    return after, Windows(index, inside)


def most_windows(images: Packing, size: Grid) -> int:
    """Return the most windows of images within a budget, if those at the border are kept.

    A row of n tokens has the most: ceil(n / side), and each image may end with a part of one.
    """
    side = min(size)
    return min(images.rows, (images.rows + images.images * (side - 1)) // side)


def neighbours(images: Packing, kernel: int, stride: int) -> tuple[Packing, Tensor]:
    """Find the k x k tokens around each place where a convolution stands.

    Args:
        images: The images.
        kernel: The side k, odd.
        stride: The step between places, from the first token on.

    Returns:
        The places of each image as a grid, and the rows of the tokens around them, (m, k * k).
        Outside an image it is the row after the last one, `images.rows`.
    """
    grids = [(-(-h // stride), -(-w // stride)) for h, w in images.grids]
    after = images.after(grids, most_windows(images, (stride, stride)))
    image, row, column = after.places()
    start = images.starts()[image, None]
    h, w = tensor_of(images.grids, images.device).view(-1, 2)[image, :, None].unbind(1)
    reach = torch.arange(kernel, device=images.device) - kernel // 2
    y, x = row[:, None] * stride + reach, column[:, None] * stride + reach
    inside = ((y >= 0) & (y < h))[..., None] & ((x >= 0) & (x < w))[:, None]
    index = (start + y * w)[..., None] + x[:, None]
    index = index.masked_fill(~inside, images.rows).flatten(1)
    return after, images.padded(index, after.rows, images.rows)


def take(x: Tensor, windows: Windows) -> Tensor:
    """Gather the windows' tokens, zeros where not `inside`; ``(n, c), (m, k) -> (m, k, c)``."""
    y = F.embedding(windows.tokens, x)
    return y if windows.inside is None else y.masked_fill(~windows.inside[..., None], 0)


def average(x: Tensor, windows: Windows) -> Tensor:
    """Average each window's tokens, those inside; ``(n, c) -> (m, c)``.

    Half precision is rounded once: its sums are fp32's.
    """
    y, dtype = take(x, windows), torch.promote_types(x.dtype, torch.float32)
    if windows.inside is None:
        return y.mean(1, dtype=dtype).to(x.dtype)
    return (y.sum(1, dtype=dtype) / windows.inside.sum(1, keepdim=True)).to(x.dtype)
