"""The rows of each packed image as a segment, and what is computed of each."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from .packing import Packing, tensor_of

__all__ = ["Segments", "mean", "segments"]


class Segments(NamedTuple):
    """Which rows are whose.

    Attributes:
        image: The number of each row's image, (rows,); of rows beyond the images, `images`.
        lengths: How many tokens each image has, (images, 1), at least one.
    """

    image: Tensor
    lengths: Tensor


def segments(images: Packing) -> Segments:
    """Return the segments of packed images."""
    lengths = images.padded(tensor_of(images.lengths, images.device), images.images, 1)
    return Segments(images.image_of_row(), lengths[:, None])


def mean(x: Tensor, segments: Segments) -> Tensor:
    """Average each image's tokens; ``(rows, c) -> (images + 1, c)``.

    The last row is zeros: `Segments.image` points rows beyond the images to it.
    """
    # Half precision would round after each token.
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    sums = wide.new_zeros(len(segments.lengths) + 1, x.shape[1])
    sums = sums.index_add(0, segments.image, wide)[:-1]
    return F.pad(sums / segments.lengths, (0, 0, 0, 1)).to(x.dtype)
