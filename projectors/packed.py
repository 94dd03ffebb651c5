"""Packed images: tokens of images of different sizes, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from ..blocks.core.chain import Link, order, run
from ..blocks.core.fast import hooked
from ..blocks.core.feature import Grid
from ..blocks.core.window import PackedModule, window_index

__all__ = ["Track", "by_size", "run_packed", "to_raster", "to_raster_packed"]


Track: TypeAlias = Callable[[Grid], Sequence[Grid]]
"""Says through which grids a grid goes: one entry per block, the grid after it."""


def run_packed(
    blocks: Sequence[tuple[Link, bool]], x: Tensor, grids: Sequence[Grid], track: Track
) -> Tensor:
    """Run a chain on packed images; ``(n, c) -> (m, d)``.

    A token-wise block runs once on all tokens, a merge or pool once through an index, any other
    block once per distinct size; so does a merge or pool that somebody watches, whose hooks are
    called each time.

    Args:
        blocks: The modules, each with whether it mixes an image's tokens.
        x: The images' tokens.
        grids: Their grids, n = sum(h * w).
        track: The grids after each block.
    """
    tracks = {grid: track(grid) for grid in dict.fromkeys(grids)}
    alone: list[Link] = []  # token-wise ones in a row, which may be fused
    for number in order([module for module, _ in blocks]):
        module, mixes_tokens = blocks[number]
        if not mixes_tokens:
            alone.append(module)
            continue
        x, alone = _token_wise(alone, x), []
        before = [tracks[grid][number - 1] for grid in grids] if number else list(grids)
        if isinstance(module, PackedModule) and not any(map(hooked, module.modules())):
            x = module.forward_packed(x, before)
        else:
            x = by_size(module, x, before)
    return _token_wise(alone, x)


def _token_wise(modules: list[Link], x: Tensor) -> Tensor:
    return run(modules, x[None, None]).flatten(0, 2)


def by_size(module: Link, x: Tensor, before: Sequence[Grid]) -> Tensor:
    """Run a module on images of these grids, once per distinct size; ``(n, c) -> (m, d)``."""
    parts = torch.split(x, [h * w for h, w in before])
    done: list[Tensor] = [x] * len(parts)
    for grid in dict.fromkeys(before):
        which = [index for index, other in enumerate(before) if other == grid]
        batch = torch.stack([parts[index] for index in which])
        y = module(batch.view(len(which), *grid, x.shape[1])).flatten(1, 2)
        for index, image in zip(which, y.unbind(), strict=True):
            done[index] = image
    return torch.cat(done)


def to_raster(x: Tensor, grid: Grid) -> Tensor:
    """Put tokens that stand in blocks of 2 x 2 into rows; ``(b, n, c) -> (b, n, c)``."""
    h, w = grid
    b, _, c = x.shape
    return x.view(b, h // 2, w // 2, 2, 2, c).transpose(2, 3).flatten(1, 4)


def to_raster_packed(x: Tensor, grids: Sequence[Grid]) -> Tensor:
    """Put packed tokens that stand in blocks of 2 x 2 into rows; ``(n, c) -> (n, c)``."""
    index, _ = window_index(grids, (2, 2), ceil=False, device=x.device)
    return torch.empty_like(x).index_copy(0, index.flatten(), x)
