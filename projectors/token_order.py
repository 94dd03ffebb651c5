"""Tokens that do not come row by row: Qwen's towers give each block's tokens together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..blocks.core.block import Block, mixes_tokens
from ..blocks.core.chain import Chain
from ..blocks.core.errors import GridError
from ..blocks.core.fast import enabled, hooked
from ..blocks.core.feature import Grid
from ..blocks.core.packing import Packing
from ..blocks.core.run import Layer, run
from ..blocks.core.window import windows
from ..blocks.patch_merge import PatchMerge, PatchMergeModule

__all__ = ["BlockMajor", "BlockMerge", "to_raster", "to_raster_packed"]


class BlockMajor:
    """The block-major order of a projector's input, undone at the latest possible place.

    Blocks before a merge treat every token alike, and the merge of a block whose tokens stand
    together is a view. So where such a merge comes first, tokens stay as they are until then;
    elsewhere they are put into rows at the start, which costs a copy.

    Args:
        blocks: The projector's blocks.
        side: The side of the blocks in which the tokens come.
    """

    def __init__(self, blocks: Sequence[Block], side: int) -> None:
        self._side = side
        self._place = _first_merge(blocks, side)
        self._merge = BlockMerge(side)

    def check(self, grid: Grid) -> None:
        """Check that a grid divides into blocks.

        Raises:
            GridError: It does not.
        """
        (h, w), side = grid, self._side
        if h % side or w % side:
            raise GridError(
                f"a grid of {h}x{w} cannot come in blocks of {side}x{side}",
                "grid",
                "even sides" if side == 2 else f"sides that {side} divides",
                "Set token_order='raster' if the tokens come row by row.",
            )

    def enter(self, x: Tensor, grid: Grid, chain: Chain) -> tuple[Tensor, Callable[..., Tensor]]:
        """Return tokens ``(b, n, c)`` and what to call on them, as a feature ``(b, h, w, c)``."""
        layers = self._layers(chain)
        if layers is None:
            return to_raster(x, grid, self._side), chain
        return x, partial(run, [layers[place] for place in chain.order()])

    def pack(self, images: Packing, chain: Chain) -> Tensor | None:
        """Return where each row of packed tokens comes from, or None if they may stay."""
        return None if self._layers(chain) is not None else _rows(images, self._side)

    def merge_in(self, layers: list[Layer]) -> list[Layer]:
        """Return a chain's layers with the merge of tokens that have stayed as they were."""
        place = self._place or 0
        return [*layers[:place], self._merge, *layers[place + 1 :]]

    def _layers(self, chain: Chain) -> list[Layer] | None:
        """Return the layers that take block-major tokens, or None if they need rows."""
        if self._place is None or not enabled() or hooked(chain):
            return None
        layers = chain.layers()
        merge = layers[self._place]
        if type(merge) is not PatchMergeModule or hooked(merge):  # replaced or hooked since
            return None
        layers[self._place] = self._merge
        return layers


class BlockMerge(nn.Module):
    """The merge of block-major tokens: a view. ``(b, h, w, c) -> (b, h/s, w/s, s*s*c)``."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, x: Tensor) -> Tensor:
        (b, h, w, c), side = x.shape, self.side
        return x.reshape(b, h // side, w // side, side * side * c)

    def pack(self, images: Packing) -> tuple[Packing, tuple[()]]:
        grids, side = images.grids, self.side
        merged = [(h // side, w // side) for h, w in grids]
        return images.after(merged, images.rows // side**2), ()

    def forward_packed(self, x: Tensor, index: tuple[()]) -> Tensor:
        """``(n, c) -> (n // (s*s), s*s*c)``."""
        rows, area = len(x) // self.side**2, self.side**2
        return x[: rows * area].reshape(rows, area * x.shape[1])


def _first_merge(blocks: Sequence[Block], side: int) -> int | None:
    """Return the place of such blocks' merge before which tokens are treated alike, if any."""
    for place, block in enumerate(blocks):
        if type(block) is PatchMerge:
            plain = block.order == "hwc" and block.odd == "refuse" and not block.transpose
            return place if plain and block.size == (side, side) else None
        if mixes_tokens([block]):
            return None
    return None


def to_raster(x: Tensor, grid: Grid, side: int) -> Tensor:
    """Put block-major tokens into rows; ``(b, n, c) -> (b, n, c)``."""
    h, w = grid
    b, _, c = x.shape
    return x.view(b, h // side, w // side, side, side, c).transpose(2, 3).flatten(1, 4)


def to_raster_packed(x: Tensor, grids: Sequence[Grid], side: int) -> Tensor:
    """Put packed block-major tokens into rows; ``(n, c) -> (n, c)``."""
    return F.embedding(_rows(Packing.of(grids, x.device), side), x)


def _rows(images: Packing, side: int) -> Tensor:
    """Return for each token, row by row, where it stands in block-major order; ``(n,)``."""
    _, found = windows(images, (side, side), ceil=False)
    count = sum(images.lengths)
    index = found.tokens[: count // side**2].flatten()
    order = torch.empty_like(index).index_copy_(0, index, torch.arange(count, device=index.device))
    return images.padded(order, images.rows)
