"""DeCo's pooling before LLaVA's MLP."""

from __future__ import annotations

from typing import ClassVar

from ...blocks.core.activation import Act
from ...blocks.pool import Pool
from ..preset import Aliases, Preset, TokensBy, UpTo16, UpTo64, square
from ..stack import Stack
from ..upstream import Upstream
from .mlp import Mlp, sequential_names

__all__ = ["DeCo"]


class DeCo(Preset):
    """``adaptive average pool to side x side > Linear > [act > Linear] x (depth - 1)``.

    Used by DeCo (144 tokens out of any grid).

    Source: Yao et al., "DeCo: Decoupling Token Compression from Semantic Abstraction in
    Multimodal Large Language Models", 2024.

    Traps: the windows overlap where the side does not divide the grid's; a grid that is smaller
    than the side is pooled too, its tokens repeated. The weights have the names of `mlp`, so that
    a checkpoint alone does not tell the two apart.

    Attributes:
        side: The side of the grid that comes out.
        depth: The number of linear layers.
        act: The activation; ``gelu`` is the exact form.
    """

    side: UpTo64 = 12
    depth: UpTo16 = 2
    act: Act = "gelu"

    def expand(self, in_: int, out: int) -> Stack:
        mlp = Mlp(depth=self.depth, act=self.act).expand(in_, out).blocks
        pool = Pool(mode="adaptive", size=(self.side, self.side))
        return Stack(in_=in_, out=out, blocks=(pool, *mlp))

    models: ClassVar[Aliases] = {"DeCo": {}}
    tokens_by: ClassVar[TokensBy] = {"side": square}
    upstream = (Upstream("mlp", sequential_names),)
