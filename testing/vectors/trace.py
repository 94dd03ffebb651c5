"""What a projector computes block by block, in the order written, in fp64 and in the plain form."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...blocks.core.fast import fast_paths
from ...blocks.core.feature import Grid
from ...projectors.token_order import to_raster

__all__ = ["ENTRY", "Images", "Step", "enter", "trace"]

ENTRY = "entry"

Step = Callable[[Tensor], Tensor]
"""A block's module: ``(b, h, w, c) -> (b, h', w', d)``."""


@dataclass(frozen=True)
class Images:
    """Input tokens ``(b, n, c)`` of one grid, or packed ones ``(n, c)`` of several.

    Attributes:
        x: The tokens.
        grids: The grids; one for a batch.
        packed: Whether the images are packed.
        prefix_tokens: How many tokens stand before those of the grid.
        side: The side of the blocks in which the tokens come; 1 if they come row by row.
    """

    x: Tensor
    grids: Sequence[Grid]
    packed: bool = False
    prefix_tokens: int = 0
    side: int = 1

    def split(self) -> list[tuple[Tensor, Grid]]:
        """Return the batches of one grid, each as ``(b, n, c)``."""
        if not self.packed:
            return [(self.x, self.grids[0])]
        parts = torch.split(self.x, [h * w for h, w in self.grids])
        return [(part[None], grid) for part, grid in zip(parts, self.grids, strict=True)]


def enter(x: Tensor, grid: Grid, prefix_tokens: int = 0, side: int = 1) -> Tensor:
    """Drop prefix tokens and put the others into rows; ``(b, n, c) -> (b, h, w, c)``."""
    x = x[:, prefix_tokens:]
    if side > 1:
        x = to_raster(x, grid, side)
    return x.reshape(len(x), *grid, x.shape[-1])


def trace(
    steps: Sequence[Step],
    images: Images,
    entering: Callable[[Tensor, Grid], Tensor] | None = None,
) -> dict[str, Tensor]:
    """Return what leaves each block, by its path: a feature, or packed rows ``(rows, c)``.

    Where tokens are dropped or reordered on entry, what they become is first, as ``entry``.

    Args:
        steps: The blocks' modules.
        images: The input.
        entering: Makes the feature ``(b, h, w, c)`` of tokens ``(b, n, c)`` and a grid, in place
            of `enter`.
    """
    parts: list[Mapping[str, Tensor]] = []
    for x, grid in images.split():
        if entering is None:
            feature = enter(x, grid, images.prefix_tokens, images.side)
        else:
            feature = entering(x, grid)
        parts.append(_run(steps, feature, first=bool(images.prefix_tokens or images.side > 1)))
    if not images.packed:
        return dict(parts[0])
    return {path: torch.cat([part[path].flatten(0, 2) for part in parts]) for path in parts[0]}


def _run(steps: Sequence[Step], x: Tensor, *, first: bool) -> dict[str, Tensor]:
    found = {ENTRY: x} if first else {}
    with torch.no_grad(), fast_paths(False):
        for place, step in enumerate(steps):
            x = step(x)
            found[f"blocks.{place}"] = x
    return found
