"""Honeybee's C-Abstractor."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field

from ...blocks.attention import square_side
from ...blocks.core.block import Block
from ...blocks.core.errors import SpecError
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
from ..errors import CheckpointError
from ..preset import Aliases, Channels, Preset, TokensBy, UpTo16, UpTo64
from ..stack import Stack
from ..upstream import Checkpoint, Match, Name, Upstream
from .mlp import Mlp

__all__ = ["CAbstractor"]


def _square(queries: int) -> int:
    square_side(queries)
    return queries


def _queries(tokens: int, preset: CAbstractor) -> int:
    """Return how many queries give so many tokens, those at the end among them."""
    end = preset.end
    side = math.isqrt(max(tokens - end, 0))
    if side * side + end != tokens:
        hint = f"Try {side * side + end} or {(side + 1) ** 2 + end}."
        expected = "a square number" + (f" plus the {end} of end={end}" if end else "")
        raise SpecError(f"{tokens} tokens", expected=expected, hint=hint)
    return tokens - end


def _names(stack: Stack) -> list[str | Name]:
    names: list[str | Name] = []
    stage, number, linear = 0, 0, 0
    for block in stack.blocks:
        if isinstance(block, Parallel | Repeat):
            for _ in range(block.times if isinstance(block, Repeat) else 1):
                number += 1
                shortcut = isinstance(block, Parallel)
                names += _names_of_reg_block(f"net.{stage}.b{number}", shortcut=shortcut)
        elif isinstance(block, Pool):
            stage, number = 2, 0
        elif isinstance(block, Pointwise):
            names.append(f"readout.{2 * linear}")
            linear += 1
        elif isinstance(block, Position):
            # In older checkpoints its first row is the CLS token's, which is dropped right after.
            names.append(Name("pos_emb", "batch", skip=stack.prefix_tokens))
        elif isinstance(block, ExtraTokens):
            names.append(Name("eos_tokens", "batch"))
    return names


def _names_of_reg_block(path: str, *, shortcut: bool) -> list[str | Name]:
    names: list[str | Name] = [
        Name(f"{path}.conv1.conv", "conv"),
        f"{path}.conv1.bn",
        f"{path}.conv2.conv",
        f"{path}.conv2.bn",
        Name(f"{path}.se.fc1", "conv"),
        Name(f"{path}.se.fc2", "conv"),
        Name(f"{path}.conv3.conv", "conv"),
        f"{path}.conv3.bn",
    ]
    if shortcut:
        names += [Name(f"{path}.downsample.conv", "conv"), f"{path}.downsample.bn"]
    return names


def _read(ckpt: Checkpoint) -> Match:
    path = "projector_config.num_query_tokens"
    # Honeybee's first configs have it at the top.
    queries = ckpt.option("queries", path, ckpt.config.get("num_query_tokens"))
    if queries is None:
        raise CheckpointError(
            "missing",
            f"config.json: {path}",
            "the number of tokens that come out of the pool",
            f"No tensor tells it: give it, as family={ckpt.family!r}, queries=...",
        )
    hidden, in_, *_ = ckpt.shapes["net.0.b1.conv1.conv.weight"]
    linear = ckpt.count(r"readout\.\d+\.weight")
    rows = ckpt.shapes["pos_emb"][1] if "pos_emb" in ckpt.shapes else 0
    side = math.isqrt(rows)
    options = {
        "queries": queries,
        "hidden": hidden,
        "depth": ckpt.count(r"net\.0\.b\d+\.conv1\.conv\.weight"),
        "mlp_depth": linear,
        "position": rows > 0,
        "end": ckpt.shapes["eos_tokens"][1] if "eos_tokens" in ckpt.shapes else 0,
        "prefix_tokens": int(rows != side**2),  # an older table has a row for the CLS token
    }
    out = ckpt.shapes[f"readout.{2 * linear - 2}.weight"][0]
    return Match(in_, out, options, (side, side) if rows else None)


class CAbstractor(Preset):
    """``depth x RegBlock > adaptive average pool > depth x RegBlock > MLP``: `queries` tokens.

    RegBlock is RegNet's (timm's `RegStage`): ``x' + (pointwise > LN > SiLU > depthwise 3x3 > LN
    > SiLU > squeeze-excite > pointwise > LN)``, then SiLU; its convolutions have no bias, and
    x' is x, or ``pointwise > LN`` of it where the width changes. The MLP's activation is SiLU.

    Used by Honeybee and many copies.

    Source: khanrc/honeybee, ``honeybee/projectors/projectors.py`` (`CAbstractor`); Cha et al.,
    "Honeybee", 2023.

    Traps: the LayerNorms over channels have an eps of 1e-5, because timm replaces the
    ``LayerNorm2d`` it is given by one with an activation; the squeeze is a quarter of the block's
    *input*, not rounded to a multiple; SiLU follows the sum. Honeybee adds a learned position table
    (``position=True``), and in older checkpoints it begins with a row for the CLS token, which
    is dropped right after; ``prefix_tokens=1`` skips that row. The pool repeats no token: the
    grid's sides are at least sqrt(queries).

    Attributes:
        queries: The number of tokens that come out of the pool, a square.
        hidden: The inner width.
        depth: The number of RegBlocks before the pool, and after it.
        mlp_depth: The number of linear layers of the MLP.
        position: Whether to add a learned table to the input; needs ``grid=`` at build.
        end: The number of learned tokens at the end (eos).
    """

    queries: Annotated[int, Field(ge=1, le=1 << 20), AfterValidator(_square)] = 144
    hidden: Channels = 1024
    depth: UpTo64 = 3
    mlp_depth: UpTo16 = 2
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

    aliases: ClassVar[Aliases] = {"CAbstractor": {}}
    models: ClassVar[Aliases] = {"Honeybee": {}}
    tokens_by: ClassVar[TokensBy] = {"queries": _queries}
    upstream = (
        Upstream(
            "c-abstractor",
            _names,
            prefix="mm_projector|vision_projector|abstractor|projector",
            tensors=("net.0.b1.conv1.conv.weight", "readout.0.weight"),
            read=_read,
        ),
    )


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
