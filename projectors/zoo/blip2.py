"""BLIP-2's Q-Former and the linear layer behind it."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from ...blocks.attention import Depth, Heads, Queries
from ...blocks.core.feature import MAX_WIDTH
from ...blocks.pointwise import Pointwise
from ...blocks.qformer import QFormer
from ..preset import Preset
from ..stack import Stack

__all__ = ["Blip2"]


class Blip2(Preset):
    """``Q-Former > Linear``; 32 tokens come out of any number.

    Used by BLIP-2 and, with a linear layer of its own, MiniGPT-4.

    Source: huggingface/transformers, ``models/blip_2/modeling_blip_2.py``
    (`Blip2QFormerModel`); Li et al., "BLIP-2", 2023.

    Traps: the CLS token stays, so do not drop it; norms stand after the sums, with an eps of
    1e-12; only every second layer reads the image; released models keep it in fp32. InstructBLIP's
    Q-Former reads a text too, and is another.

    Attributes:
        width: The queries' width.
        queries: The number of queries, which is the number of tokens that come out.
        depth: The number of layers.
        heads: The number of heads, which divides `width`.
        hidden: The inner width of the feed-forward layers; None is four times `width`.
        cross_every: How many layers it is from one that reads the image to the next.
    """

    width: Annotated[int, Field(ge=1, le=MAX_WIDTH)] = 768
    queries: Queries = 32
    depth: Depth = 12
    heads: Heads = 12
    hidden: Annotated[int, Field(ge=1, le=MAX_WIDTH)] | None = None
    cross_every: Depth = 2

    def expand(self, in_: int, out: int) -> Stack:
        qformer = QFormer(
            out=self.width,
            queries=self.queries,
            depth=self.depth,
            heads=self.heads,
            hidden=self.hidden,
            cross_every=self.cross_every,
        )
        return Stack(in_=in_, out=out, blocks=(qformer, Pointwise()))
