"""Attention of each packed image's queries to that image's tokens alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .packing import Packing

__all__ = ["PackedQueries", "attend_apart", "pack_queries"]


class PackedQueries(NamedTuple):
    """What the queries of packed images see.

    Attributes:
        mask: Which keys each query of each image sees, (images, n, keys). Those of images that are
            not there see all, because attention to no key has no value.
        image: The number of each row's image, (rows,); of rows beyond the images, `images`.
    """

    mask: Tensor
    image: Tensor


def pack_queries(
    images: Packing, number: int, *, self_keys: bool = False
) -> tuple[Packing, PackedQueries]:
    """Give each packed image its own queries; what comes out is as many tokens of each.

    Args:
        images: The images.
        number: The number n of queries of an image.
        self_keys: Whether the queries are keys too, after the tokens.
    """
    numbers = torch.arange(images.images, device=images.device)
    keys = image = images.image_of_row()
    if self_keys:
        keys = torch.cat([image, numbers[:, None].expand(-1, number).flatten()])
    mask = (numbers[:, None] == keys) | (numbers[:, None] >= len(images.grids))
    after = images.after([(1, number)] * len(images.grids), images.images * number)
    return after, PackedQueries(mask[:, None].repeat(1, number, 1), image)


def attend_apart(
    attend: Callable[[Tensor, Tensor], Tensor], x: Tensor, queries: PackedQueries
) -> Tensor:
    """Attend, and let an image that is not finite spoil its own queries alone.

    A mask does not keep it apart: zero times a NaN is NaN. What overflows inside the attention
    still spreads.

    Args:
        attend: Attends to tokens under a mask;
            ``(rows, c), (images * n, keys) -> (images * n, d)``.
        x: The tokens, (rows, c).
        queries: What their queries see.
    """
    images, number, _ = queries.mask.shape
    lost = ~x.isfinite().all(1)
    x = x.masked_fill((lost | (queries.image == images))[:, None], 0)
    y = attend(x, queries.mask.flatten(0, 1))
    count = queries.image.new_zeros(images + 1).index_add(0, queries.image, lost.long())
    spoiled = (count[:images] > 0)[:, None].expand(-1, number).reshape(-1, 1)
    return y.masked_fill(spoiled, math.nan)
