"""Region attention: each token of a coarse grid attends to its window of a fine one."""

from __future__ import annotations

from typing import Any, ClassVar

from einops import rearrange
from torch import Tensor, nn

from .attention import Attention, Heads, head_width
from .core.block import Block, Blocks, chains, walk
from .core.chain import Chain
from .core.errors import GridError, SpecError
from .core.feature import Feature
from .core.packed import forward_packed, pack_module
from .core.packing import Packing
from .core.window import Windows, take, windows
from .depthwise import Stride

__all__ = ["RegionAttention", "RegionAttentionModule"]


class RegionAttention(Block):
    """Attend from a coarse grid to windows of a fine one; ``(b, h, w, c) -> (b, h/s, w/s, d)``.

    Three chains make queries, keys and values of the same feature. Each query sees the s x s keys
    and values at its place, in multi-head attention with biases; its width d is what comes out.
    There is neither norm nor skip: those are blocks of the chains. Source: `TokenPacker` of
    CircleRadon/TokenPacker. Keys: ``query.<i>.``, ``key.<i>.`` and ``value.<i>.`` for the i-th
    block of a chain, ``attention``.

    Attributes:
        query: The chain of the queries; it ends on the grid divided by the stride.
        key: The chain of the keys, which keeps the grid.
        value: The chain of the values, which keeps it too and ends with the keys' width.
        stride: The side s of the windows, which divides both sides of the grid.
        heads: The number of heads, which divides d.
    """

    query: Blocks
    key: Blocks
    value: Blocks
    stride: Stride = 2
    heads: Heads = 8

    def flow(self, x: Feature) -> Feature:
        s = self.stride
        if any(side and side % s for side in x.raster().grid):
            found = f"a grid of {x.grid[0]}x{x.grid[1]} does not divide into windows of {s}x{s}"
            raise GridError(found)
        coarse = x.resize(lambda side: side // s)
        query = _end("query", self.query, x, coarse)
        key, value = _end("key", self.key, x, x), _end("value", self.value, x, x)
        if key.channels != value.channels:
            found = f"its keys have {key.channels} channels, its values {value.channels}"
            raise SpecError(found, expected="the same of both")
        head_width(query.channels, self.heads)
        return coarse.replace(channels=query.channels)

    def build(self, x: Feature) -> nn.Module:
        ends = [(Chain.of(steps), steps[-1].y.channels) for _, steps in chains(self, x)]
        (query, width), (key, context), (value, _) = ends
        attention = Attention(width, context, self.heads, head_width(width, self.heads))
        return RegionAttentionModule(query, key, value, attention, self.stride)


def _end(name: str, chain: Blocks, x: Feature, on: Feature) -> Feature:
    """Return what a chain makes of a feature, on the grid of another one."""
    y = walk(chain, x, f".{name}")[-1].y.raster()
    # A chain may know a side, such as an adaptive pool's, that the feature does not.
    if any(side and want and side != want for side, want in zip(y.grid, on.grid, strict=True)):
        raise GridError(
            f"its {name} ends on a grid of {y.grid[0]}x{y.grid[1]}",
            expected=f"{on.grid[0]}x{on.grid[1]}",
        )
    return y


class RegionAttentionModule(nn.Module):
    """Each query attends to the window at its place; ``(b, h, w, c) -> (b, h/s, w/s, d)``.

    Args:
        query: Makes the queries (b, h/s, w/s, d).
        key: Makes the keys (b, h, w, e).
        value: Makes the values (b, h, w, e).
        attention: Takes queries (m, 1, d), keys and values (m, s * s, e).
        stride: The side s of the windows.
    """

    by_size = True
    tp_styles: ClassVar[dict[str, str]] = {}

    def __init__(
        self, query: Chain, key: Chain, value: Chain, attention: nn.Module, stride: int
    ) -> None:
        super().__init__()
        self.query = query
        self.key = key
        self.value = value
        self.attention = attention
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        q = self.query(x)
        k, v = (
            rearrange(chain(x), "b (h p) (w q) c -> (b h w) (p q) c", p=self.stride, q=self.stride)
            for chain in (self.key, self.value)
        )
        y: Tensor = self.attention(q.flatten(0, 2)[:, None], k, v)
        return y.view(q.shape)

    def pack(self, images: Packing) -> tuple[Packing, tuple[Any, Any, Any, Windows]]:
        chains = (("query", self.query), ("key", self.key), ("value", self.value))
        own = (pack_module(chain, images, name)[1] for name, chain in chains)
        after, index = windows(images, (self.stride, self.stride), ceil=False)
        return after, (*own, index)

    def forward_packed(self, x: Tensor, index: tuple[Any, Any, Any, Windows]) -> Tensor:
        """``(rows, c) -> (m, d)``, at a budget."""
        query, key, value, own = index
        q = forward_packed(self.query, x, query)[: len(own.tokens)]
        k = take(forward_packed(self.key, x, key), own)
        v = take(forward_packed(self.value, x, value), own)
        y: Tensor = self.attention(q[:, None], k, v)
        return y[:, 0]

    def extra_repr(self) -> str:
        return f"stride={self.stride}"
