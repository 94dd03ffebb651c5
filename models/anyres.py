"""How LLaVA packs the tiles of an image of any resolution: the arithmetic, without a tensor.

An image is seen as a whole, the base, and cut in tiles of the same size. The projector is called
with each. Its tokens for the tiles are then laid out as the tiles were cut, the rows and columns
of padding are dropped, and one token is added to the end of each row that is left. All of it is
counted on the grid that comes out of the projector: where that is the one that goes in, upstream
does the same. On a coarse grid a row that the image fills in part may be dropped, as upstream
does, which rounds so.

Where a sequence comes out there are no rows. The tokens of the base and of the tiles then follow
each other and nothing is dropped or added, as with ``mm_patch_merge_type="flat"`` in LLaVA's code.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..blocks.core.feature import Grid
from .upstream import transformers

__all__ = ["find_padding", "find_tiles", "halved", "max_tiles", "shrink"]


def find_tiles(image: Sequence[int], resolutions: Sequence[Sequence[int]], tile: Grid) -> Grid:
    """Return in how many rows and columns of tiles an image is cut.

    Args:
        image: Its height and width in pixels.
        resolutions: The heights and widths in pixels that it may be resized to.
        tile: The height and width of a tile in pixels.
    """
    select = transformers().image_processing_utils.select_best_resolution
    height, width = select(image, resolutions)
    return height // tile[0], width // tile[1]


def find_padding(image: Sequence[int], canvas: Grid) -> Grid:
    """Return how many rows at the top and at the bottom, and columns at both sides, are padding.

    Args:
        image: The height and width of the image in pixels.
        canvas: How many rows and columns of tokens its tiles have together.
    """
    (height, width), (h, w) = image, canvas
    if width / height > w / h:
        return (h - int(round(height * (w / width), 7))) // 2, 0
    return 0, (w - int(round(width * (h / height), 7))) // 2


def max_tiles(vision_aspect_ratio: str) -> int:
    """Return the 9 of ``anyres_max_9``."""
    return int(vision_aspect_ratio.rpartition("_")[2])


def shrink(canvas: Grid, tile: Grid, tiles: int) -> Grid:
    """Return the rows and columns that a canvas is resized to if it is too large.

    It is when it has over 1.21 times the tokens of `tiles` tiles, each of the grid `tile` that
    comes out of the projector: so the limit is one of area, whatever the projector merges.
    """
    h, w = canvas
    ratio = math.sqrt(h * w / (tiles * tile[0] * tile[1]))
    return (max(1, int(h // ratio)), max(1, int(w // ratio))) if ratio > 1.1 else canvas


def halved(grid: Grid) -> Grid:
    """Return the grid of a frame of a video, which is halved."""
    return math.ceil(grid[0] / 2), math.ceil(grid[1] / 2)
