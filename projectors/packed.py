"""Packed images: tokens of images of different sizes, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from ..blocks.core.chain import Layer, run
from ..blocks.core.fast import hooked
from ..blocks.core.feature import Grid
from ..blocks.core.window import PackedModule

__all__ = ["GridsAfter", "run_by_size", "run_packed"]


GridsAfter: TypeAlias = Callable[[Grid], Sequence[Grid]]
"""Says what the blocks make of a grid: the grid after each of them."""


def run_packed(
    layers: Sequence[tuple[Layer, bool]],
    x: Tensor,
    grids: Sequence[Grid],
    grids_after: GridsAfter,
    order: Sequence[int] | None = None,
) -> Tensor:
    """Run a chain on packed images; ``(n, c) -> (m, d)``.

    A token-wise layer runs once on all tokens, a merge or pool once through an index, any other
    layer once per distinct size. So does a merge or pool with hooks, which must see each call.

    Args:
        layers: The layers, each with whether it mixes an image's tokens.
        x: The images' tokens.
        grids: Their grids, n = sum(h * w).
        grids_after: The grids after each layer.
        order: The places of the layers, in the order in which to run them; default: as given.
    """
    after = {grid: grids_after(grid) for grid in dict.fromkeys(grids)}
    token_wise: list[Layer] = []  # consecutive ones, which may be fused
    for place in range(len(layers)) if order is None else order:
        layer, mixes_tokens = layers[place]
        if not mixes_tokens:
            token_wise.append(layer)
            continue
        x, token_wise = _run_token_wise(token_wise, x), []
        sizes = [after[grid][place - 1] for grid in grids] if place else list(grids)
        if isinstance(layer, PackedModule) and not any(map(hooked, layer.modules())):
            x = layer.forward_packed(x, sizes)
        else:
            x = run_by_size(layer, x, sizes)
    return _run_token_wise(token_wise, x)


def _run_token_wise(layers: list[Layer], x: Tensor) -> Tensor:
    return run(layers, x[None, None]).flatten(0, 2)


def run_by_size(layer: Layer, x: Tensor, grids: Sequence[Grid]) -> Tensor:
    """Run a layer on images of these grids, once per distinct size; ``(n, c) -> (m, d)``."""
    parts = torch.split(x, [h * w for h, w in grids])
    done: list[Tensor] = [x] * len(parts)
    for grid in dict.fromkeys(grids):
        which = [index for index, other in enumerate(grids) if other == grid]
        batch = torch.stack([parts[index] for index in which])
        y = layer(batch.view(len(which), *grid, x.shape[1])).flatten(1, 2)
        for index, image in zip(which, y.unbind(), strict=True):
            done[index] = image
    return torch.cat(done)
