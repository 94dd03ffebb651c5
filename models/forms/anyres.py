"""Models that cut an image in tiles, and put together again what comes out for them."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from ...blocks.core.feature import Grid
from ...projectors.projector import Projector
from ...projectors.stack import Stack
from ..anyres import find_padding, find_tiles, halved, max_tiles, shrink
from ..errors import ModelError
from ..grids import out_grid
from ..host import Host
from ..slots import projector_in
from .form import Form, Slot

__all__ = ["AnyRes", "NextVideo", "OneVision"]


class AnyRes(Form):
    """LLaVA-NeXT: upstream lays the tiles out on the grid that goes in, we on what comes out."""

    def check(self, stack: Stack, slot: Slot, config: Any) -> None:
        """Refuse a tower without a fixed grid; see `Form`."""
        side, grid = config.vision_config.image_size, slot.grid
        if not isinstance(side, int) or grid is None or grid[0] != grid[1]:
            raise ModelError(
                f"a {config.vision_config.model_type} of image_size {side}, whose grid is {grid}",
                "config.vision_config",
                "a vision tower of square images of one size, in which the model cuts an image",
            )
        super().check(stack, slot, config)

    def bind(self, core: Any, host: Host) -> None:
        """Bind ``pack_image_features``, which knows the grid that comes out."""
        grid = _out_grid(core, host)
        core.pack_image_features = functools.partial(pack_image_features, core, grid)


class OneVision(AnyRes):
    """LLaVA-OneVision: large canvases are resized, and the frames of a video are pooled."""

    def bind(self, core: Any, host: Host) -> None:
        """Bind ``apply_pooling`` too."""
        grid = _out_grid(core, host)
        core.pack_image_features = functools.partial(_pack_onevision, core, grid)
        core.apply_pooling = functools.partial(apply_pooling, grid)


class NextVideo(AnyRes):
    """LLaVA-NeXT-Video: the frames of a video are pooled before the projector."""

    def prepare(self, projector: Projector) -> None:
        """Register a hook that tells the grid of such frames; see `Form`."""
        super().prepare(projector)
        projector.register_forward_pre_hook(_tell_grid, with_kwargs=True)


def _tell_grid(
    projector: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """Give the grid of a frame that has fewer tokens than a tile: a square, as a tile's is."""
    if len(args) != 1 or kwargs or args[0].ndim != 3:
        return None
    tokens = args[0].shape[1] - projector.spec.prefix_tokens
    if tokens == math.prod(projector.grid):
        return None
    return args, {"grid": (math.isqrt(tokens), math.isqrt(tokens))}


def _out_grid(core: nn.Module, host: Host) -> Grid | None:
    projector = projector_in(core.get_submodule(host.slot))
    return out_grid(projector.spec, projector.grid)


def pack_image_features(
    core: Any,
    grid: Grid | None,
    image_features: Sequence[Tensor],
    image_sizes: Any,
    vision_feature_select_strategy: str | None = None,
    image_newline: Tensor | None = None,
    *,
    limit: int | None = None,
) -> tuple[list[Tensor], Tensor]:
    """Put together what comes out for the tiles of each image; see `anyres`.

    Args:
        core: The base model.
        grid: The grid (h, w) that comes out of the projector; None for a sequence.
        image_features: For each image ``(t, m, d)``, t - 1 tiles after the base.
        image_sizes: The height and width in pixels of each image.
        vision_feature_select_strategy: Not used: the projector drops the class token.
        image_newline: The token ``(d)`` that ends a row.
        limit: How many tiles' tokens an image may have; default: any number.

    Returns:
        For each image its tokens ``(n, d)``, and how many they are.
    """
    packed = []
    for tiles, size in zip(image_features, image_sizes, strict=True):
        if grid is None:
            packed.append(_follow(tiles, image_newline))
        elif len(tiles) == 1:
            packed.append(_end(rearrange(tiles, "1 m d -> d 1 m"), image_newline))
        else:
            size = size.tolist() if hasattr(size, "tolist") else size
            canvas = _unpadded(tiles[1:], size, grid, core.config)
            if limit is not None:
                canvas = _resized(canvas, shrink(_sides(canvas), grid, limit))
            packed.append(torch.cat((tiles[0], _end(canvas, image_newline))))
    lengths = [len(tokens) for tokens in packed]
    return packed, torch.tensor(lengths, device=image_features[0].device)


def _pack_onevision(
    core: Any,
    grid: Grid | None,
    image_features: Sequence[Tensor],
    image_sizes: Any,
    image_newline: Tensor | None = None,
    vision_aspect_ratio: str = "anyres_max_9",
) -> tuple[list[Tensor], Tensor]:
    limit = max_tiles(vision_aspect_ratio)
    return pack_image_features(
        core, grid, image_features, image_sizes, image_newline=image_newline, limit=limit
    )


def apply_pooling(grid: Grid | None, image_features: Tensor) -> Tensor:
    """Halve the grid of the frames of a video: ``(t, h*w, d) -> (t, n, d)``.

    Raises:
        ModelError: There is no grid.
    """
    if grid is None:
        raise ModelError("a video", "get_video_features", "images: what comes out has no grid")
    maps = rearrange(image_features, "t (h w) d -> t d h w", h=grid[0]).contiguous()
    maps = nn.functional.interpolate(maps, size=halved(grid), mode="bilinear")
    return rearrange(maps, "t d h w -> t (h w) d")


def _follow(tiles: Tensor, newline: Tensor | None) -> Tensor:
    tokens = tiles.flatten(0, 1)
    if newline is None:
        return tokens
    # None of it, so that it has a gradient all the same: distributed training waits for one.
    return torch.cat((tokens, newline[None][:0].to(tokens)))


def _unpadded(tiles: Tensor, image: Sequence[int], grid: Grid, config: Any) -> Tensor:
    """Lay tiles out as they were cut, without padding: ``(t, h*w, d) -> (d, rows, columns)``."""
    side = config.vision_config.image_size
    rows, _ = find_tiles(image, config.image_grid_pinpoints, (side, side))
    canvas = rearrange(tiles, "(r s) (h w) d -> d (r h) (s w)", r=rows, h=grid[0])
    h, w = _sides(canvas)
    top, left = find_padding(image, (h, w))
    return canvas[:, top : h - top, left : w - left]


def _resized(canvas: Tensor, size: Grid) -> Tensor:
    if size == _sides(canvas):
        return canvas
    return nn.functional.interpolate(canvas[None], size, mode="bilinear")[0]


def _end(canvas: Tensor, newline: Tensor | None) -> Tensor:
    """End each row with a token: ``(d, h, w) -> (h * (w + 1), d)``."""
    if newline is not None:
        column = newline[:, None, None].expand(-1, canvas.shape[1], 1)
        canvas = torch.cat((canvas, column.to(canvas)), dim=-1)
    return canvas.flatten(1).transpose(0, 1)


def _sides(canvas: Tensor) -> Grid:
    _, h, w = canvas.shape
    return h, w
