"""Honeybee's C-Abstractor."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from ...blocks.attention import square_side
from ...blocks.core.block import Block
from ...blocks.core.feature import MAX_WIDTH
from ...blocks.depthwise import Depthwise
from ...blocks.extra_tokens import ExtraTokens
from ...blocks.norm_act import NormAct
from ...blocks.parallel import Parallel
from ...blocks.pointwise import Pointwise
from ...blocks.pool import Pool
from ...blocks.position import Position
from ...blocks.repeat import Repeat
from ...blocks.residual import Residual
from ...blocks.squeeze_excite import SqueezeExcite
from ..preset import Preset
from ..stack import Stack
from .mlp import Mlp

__all__ = ["CAbstractor"]


def _square(queries: int) -> int:
    square_side(queries)
    return queries


class CAbstractor(Preset):
    """``depth x RegBlock > adaptive average pool > depth x RegBlock > MLP``: `queries` tokens.

    RegBlock is RegNet's (timm's `RegStage`): ``x' + (pointwise > LN > SiLU > depthwise 3x3 > LN
    > SiLU > squeeze-excite > pointwise > LN)``, then SiLU; its convolutions have no bias, and
    x' is x, or ``pointwise > LN`` of it where the width changes. The MLP's activation is SiLU.

    Used by Honeybee and many copies.

    Source: khanrc/honeybee, ``honeybee/projectors/projectors.py`` (`CAbstractor`); Cha et al.,
    "Honeybee", 2023.

    Traps: the LayerNorms over channels have an eps of 1e-5, for timm turns the ``LayerNorm2d`` it
    is given into one with an activation; the squeeze is a quarter of the block's *input*, rounded
    but to no multiple; SiLU comes after the sum. Honeybee adds a learned position table
    (``position=True``), and in older checkpoints that begins with a row for the CLS token, which
    is dropped right after: ``prefix_tokens=1`` reads past it. No token is repeated: the grid's
    sides are at least sqrt(queries).

    Attributes:
        queries: The number of tokens that come out of the pool, a square.
        hidden: The inner width.
        depth: The number of RegBlocks before the pool, and after it.
        mlp_depth: The number of linear layers of the MLP.
        position: Whether to add a learned table to the input; needs ``grid=`` at build.
        end: The number of learned tokens at the end (eos).
    """

    queries: Annotated[int, Field(ge=1, le=1 << 20), AfterValidator(_square)] = 144
    hidden: Annotated[int, Field(ge=1, le=MAX_WIDTH)] = 1024
    depth: Annotated[int, Field(ge=1, le=64)] = 3
    mlp_depth: Annotated[int, Field(ge=1, le=16)] = 2
    position: bool = False
    end: Annotated[int, Field(ge=0, le=1024)] = 0

    def expand(self, in_: int, out: int) -> Stack:
        side = square_side(self.queries)
        blocks: list[Block] = [
            *_stage(in_, self.hidden, self.depth),
            Pool(mode="adaptive", size=(side, side)),
            *_stage(self.hidden, self.hidden, self.depth),
            *Mlp(depth=self.mlp_depth, act="silu").expand(self.hidden, out).blocks,
        ]
        if self.position:
            blocks.insert(0, Position())
        if self.end:
            blocks.append(ExtraTokens(at="end", count=self.end))
        return Stack(in_=in_, out=out, blocks=tuple(blocks))


def _stage(in_: int, width: int, depth: int) -> tuple[Block, ...]:
    """RegBlocks in a row, of which only the first may change the width."""
    after = NormAct(norm="none", act="silu")
    alike = (Residual(body=_bottleneck(width, width)), after)
    if in_ == width:
        return (Repeat(times=depth, body=alike),)
    shortcut = (Pointwise(out=width, bias=False), NormAct(norm="layer", eps=1e-5, act="none"))
    first = (Parallel(branches=(_bottleneck(in_, width), shortcut)), after)
    return (*first, Repeat(times=depth - 1, body=alike)) if depth > 1 else first


def _bottleneck(in_: int, width: int) -> tuple[Block, ...]:
    norm = NormAct(norm="layer", eps=1e-5, act="silu")
    return (
        Pointwise(out=width, bias=False),
        norm,
        Depthwise(bias=False),
        norm,
        SqueezeExcite(mid=max(1, round(in_ / 4)), act="silu", gate="sigmoid"),
        Pointwise(out=width, bias=False),
        NormAct(norm="layer", eps=1e-5, act="none"),
    )
