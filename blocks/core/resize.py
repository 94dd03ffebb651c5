"""Grids scaled to smaller ones: of which tokens of packed images the new ones are made."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from .packing import Packing, tensor_of

__all__ = ["Corners", "Cover", "average_windows", "corners", "cover", "interpolate"]


class Cover(NamedTuple):
    """Windows that cover grids evenly; they may overlap, so that a token is in up to four.

    Attributes:
        windows: The windows of each token, (rows, 4); m, their number, where it is in fewer.
        held: How many tokens each window holds, (m, 1).
    """

    windows: Tensor
    held: Tensor


def cover(images: Packing, after: Packing) -> Cover:
    """Return the windows of `F.adaptive_avg_pool2d`, from images to no larger ones."""
    image, row, column = images.places()
    h, w, rows, columns = _sides(images, after, image)
    # On a side, window i of n holds the tokens from i * side // n on, up to (i + 1) * side / n.
    # So these are the first and the last that hold a token: the same, or next to each other.
    top, bottom = row * rows // h, ((row + 1) * rows - 1) // h
    left, right = column * columns // w, ((column + 1) * columns - 1) // w
    first = after.starts()[image] + top * columns + left
    below, beside, none = top < bottom, left < right, after.rows
    each = [
        first,
        torch.where(beside, first + 1, none),
        torch.where(below, first + columns, none),
        torch.where(below & beside, first + columns + 1, none),
    ]
    windows = images.padded(torch.stack(each, 1), images.rows, none)
    one = torch.ones(images.rows, 1, dtype=torch.long, device=images.device)
    return Cover(windows, _sums(one, windows, none).clamp(min=1))


def average_windows(x: Tensor, cover: Cover) -> Tensor:
    """Average the tokens of each window; ``(rows, c) -> (m, c)``."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return (_sums(wide, cover.windows, len(cover.held)) / cover.held).to(x.dtype)


def _sums(x: Tensor, windows: Tensor, number: int) -> Tensor:
    y = x.new_zeros(number + 1, x.shape[1])
    for each in windows.unbind(1):
        y = y.index_add(0, each, x)
    return y[:number]


class Corners(NamedTuple):
    """The four tokens around each new one.

    Attributes:
        tokens: Their rows, (m, 4).
        weights: Whole numbers in proportion to their weights, (m, 4, 1).
    """

    tokens: Tensor
    weights: Tensor


def corners(images: Packing, after: Packing) -> Corners:
    """Return what bilinear scaling reads, from images to others (`align_corners=False`)."""
    image, row, column = after.places()
    h, w, rows, columns = _sides(images, after, image)
    top, bottom, *down = _between(row, h, rows)
    left, right, *across = _between(column, w, columns)
    start = images.starts()[image]
    tokens = torch.stack([start + y * w + x for y in (top, bottom) for x in (left, right)], 1)
    weights = torch.stack([y * x for y in down for x in across], 1)
    tokens, weights = images.padded(tokens, after.rows), images.padded(weights, after.rows, 1)
    return Corners(tokens, weights[..., None])


def _between(place: Tensor, side: Tensor, scaled: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return between which two places of a side one of the scaled side lies, and their weights.

    The middle of place i is at (i + 1/2) * side / scaled; all is counted in halves of 1 / scaled.
    """
    at = ((2 * place + 1) * side - scaled).clamp(min=0)
    first, rest = at // (2 * scaled), at % (2 * scaled)
    return first, (first + 1).minimum(side - 1), 2 * scaled - rest, rest


def interpolate(x: Tensor, corners: Corners) -> Tensor:
    """Weigh the tokens around each new one; ``(rows, c) -> (m, c)``."""
    weights = corners.weights.to(torch.promote_types(x.dtype, torch.float32))
    # First divided, then multiplied: else large numbers would overflow.
    weights = weights / weights.sum(1, keepdim=True)
    return (F.embedding(corners.tokens, x) * weights).sum(1).to(x.dtype)


def _sides(images: Packing, after: Packing, image: Tensor) -> tuple[Tensor, ...]:
    """Return height and width before and after scaling of numbered images, (n,) each."""
    sides = [(*old, *new) for old, new in zip(images.grids, after.grids, strict=True)]
    return tensor_of(sides, images.device).view(-1, 4)[image].unbind(1)
