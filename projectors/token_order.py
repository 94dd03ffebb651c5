"""Tokens that do not come row by row: Qwen's towers give each 2x2 block's tokens together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from ..blocks.core.block import Block, mixes_tokens
from ..blocks.core.chain import Chain, Layer, run
from ..blocks.core.errors import GridError
from ..blocks.core.fast import enabled, hooked
from ..blocks.core.feature import Grid
from ..blocks.core.window import window_index
from ..blocks.patch_merge import PatchMerge, PatchMergeModule

__all__ = ["BlockMajor", "BlockMerge"]


class BlockMajor:
    """The block-major order of a projector's input, undone at the latest possible place.

    Blocks before a 2x2 merge treat every token alike, and the merge of a block whose tokens stand
    together is a view. So where such a merge comes first, tokens stay as they are until then;
    elsewhere they are put into rows at the start, which costs a copy.

    Args:
        blocks: The projector's blocks.
    """

    def __init__(self, blocks: Sequence[Block]) -> None:
        self._place = _first_merge(blocks)
        self._merge = BlockMerge()

    def check(self, grid: Grid) -> None:
        """Check that a grid divides into blocks of 2x2.

        Raises:
            GridError: A side is odd.
        """
        h, w = grid
        if h % 2 or w % 2:
            raise GridError(
                f"a grid of {h}x{w} cannot come in blocks of 2x2",
                "grid",
                "even sides",
                "Set token_order='raster' if the tokens come row by row.",
            )

    def enter(self, x: Tensor, grid: Grid, chain: Chain) -> tuple[Tensor, Callable[..., Tensor]]:
        """Return tokens ``(b, n, c)`` and what to call on them, as a feature ``(b, h, w, c)``."""
        layers = self._layers(chain)
        if layers is None:
            return _to_raster(x, grid), chain
        return x, partial(run, [layers[place] for place in chain.order()])

    def enter_packed(
        self, x: Tensor, grids: Sequence[Grid], chain: Chain
    ) -> tuple[Tensor, list[Layer]]:
        """Return packed tokens ``(n, c)`` and the layers to run on them, in the order written."""
        layers = self._layers(chain)
        if layers is None:
            return _to_raster_packed(x, grids), chain.layers()
        return x, layers

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
    """The 2x2 merge of block-major tokens: a view. ``(b, h, w, c) -> (b, h/2, w/2, 4*c)``."""

    def forward(self, x: Tensor) -> Tensor:
        b, h, w, c = x.shape
        return x.reshape(b, h // 2, w // 2, 4 * c)

    def forward_packed(self, x: Tensor, grids: Sequence[Grid]) -> Tensor:
        """``(n, c) -> (n/4, 4*c)``."""
        return x.reshape(-1, 4 * x.shape[1])


def _first_merge(blocks: Sequence[Block]) -> int | None:
    """Return the place of the 2x2 merge before which every token is treated alike, if any."""
    for place, block in enumerate(blocks):
        if type(block) is PatchMerge:
            plain = block.order == "hwc" and block.odd == "refuse" and not block.transpose
            return place if plain and block.size == (2, 2) else None
        if mixes_tokens([block]):
            return None
    return None


def _to_raster(x: Tensor, grid: Grid) -> Tensor:
    """Put block-major tokens into rows; ``(b, n, c) -> (b, n, c)``."""
    h, w = grid
    b, _, c = x.shape
    return x.view(b, h // 2, w // 2, 2, 2, c).transpose(2, 3).flatten(1, 4)


def _to_raster_packed(x: Tensor, grids: Sequence[Grid]) -> Tensor:
    """Put packed block-major tokens into rows; ``(n, c) -> (n, c)``."""
    index, _ = window_index(grids, (2, 2), ceil=False, device=x.device)
    return torch.empty_like(x).index_copy(0, index.flatten(), x)
