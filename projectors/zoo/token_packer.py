"""TokenPacker's projector."""

from __future__ import annotations

from typing import ClassVar

from ...blocks.attention import Heads
from ...blocks.core.block import Block
from ...blocks.core.errors import SpecError
from ...blocks.norm_act import NormAct
from ...blocks.pointwise import Pointwise
from ...blocks.pool import Pool
from ...blocks.region_attention import RegionAttention
from ...blocks.take_channels import TakeChannels
from ..errors import CheckpointError
from ..preset import MERGES, Aliases, Channels, Preset, TokensBy, UpTo16
from ..stack import Stack
from ..upstream import Checkpoint, Fused, Match, Upstream
from .mlp import Mlp

__all__ = ["TokenPacker"]


def _read(ckpt: Checkpoint) -> Match:
    ckpt.check_type("tokenpacker", "tokenpacker")
    width, level = ckpt.matrix("q_proj_1.weight")
    _, in_ = ckpt.matrix("k_proj_1.0.weight")
    merge = ckpt.option("merge", "scale_factor", None)
    if merge is None:
        raise CheckpointError(
            "missing",
            "config.json: scale_factor",
            "the side of the windows",
            f"No tensor tells it: give it, as family={ckpt.family!r}, merge=...",
        )
    options = {"merge": merge, "levels": in_ // level, "width": width}
    return Match(in_, ckpt.matrix("mlp.2.weight")[0], options)


class TokenPacker(Preset):
    """``attention from pooled queries to their windows > Linear > GELU > Linear``.

    The queries are the last level's tokens, scaled down bilinearly, ``> Linear > LN``; keys and
    values are all levels' tokens, each ``> Linear > GELU > Linear > LN``. A query sees the merge x
    merge keys and values at its place, so that 1 token of merge * merge comes out.

    Used by TokenPacker, on one view of an image.

    Source: CircleRadon/TokenPacker, ``llava/model/multimodal_projector/builder.py``
    (`TokenPacker`); Li et al., "TokenPacker", 2024.

    Note: its input is four levels of the tower joined on channels, four times the width that others
    read; with `levels=1` it reads one.

    Traps: the levels are 12, 16, 22 and 23 of CLIP ViT-L's 24, without the CLS token; the queries
    are made of the last one alone, which upstream is given a second time. The LayerNorms' eps is
    1e-6; the queries' layer has no bias; there is no skip around the attention.

    Attributes:
        merge: The side of the windows (`scale_factor` upstream), which divides the grid's.
        levels: How many levels the input joins.
        width: The width of queries, keys and values; None is a level's.
        heads: The number of heads; None is one for every 128 channels.
    """

    merge: UpTo16 = 2
    levels: UpTo16 = 4
    width: Channels | None = None
    heads: Heads | None = None

    def expand(self, in_: int, out: int) -> Stack:
        if in_ % self.levels:
            raise SpecError(
                f"{in_} channels do not divide into {self.levels} levels",
                "levels",
                "a number that divides the input width",
            )
        level = in_ // self.levels
        width = self.width or level
        norm = NormAct(norm="layer", eps=1e-6, act="none")
        query = (
            TakeChannels(first=in_ - level, count=level),
            Pool(mode="bilinear", stride=self.merge),
            Pointwise(out=width, bias=False),
            norm,
        )
        gelu = NormAct(norm="none", act="gelu")
        detail = (Pointwise(out=width), gelu, Pointwise(out=width), norm)
        attention = RegionAttention(
            query=query,
            key=detail,
            value=detail,
            stride=self.merge,
            heads=self.heads or max(width // 128, 1),
        )
        blocks: tuple[Block, ...] = (attention, *Mlp().expand(width, out).blocks)
        return Stack(in_=in_, out=out, blocks=blocks)

    aliases: ClassVar[Aliases] = {"tokenpacker": {}, "TokenPacker": {}}
    models: ClassVar[Aliases] = {"TokenPacker": {}}
    tokens_by: ClassVar[TokensBy] = {"merge": MERGES}
    upstream = (
        Upstream(
            "token-packer",
            (
                "q_proj_1",
                "ln_q_1",
                "k_proj_1.0",
                "k_proj_1.2",
                "ln_k_1",
                "v_proj_1.0",
                "v_proj_1.2",
                "ln_v_1",
                Fused("clip_attn.in_proj", (0, 1, 2), "_"),
                "clip_attn.out_proj",
                "mlp.0",
                "mlp.2",
            ),
            prefix="mm_projector",
            tensors=("q_proj_1.weight", "k_proj_1.0.weight", "clip_attn.in_proj_weight"),
            read=_read,
        ),
    )
