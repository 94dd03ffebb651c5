"""Flamingo's perceiver resampler and the models that took it over."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ...blocks.attention import Depth, Heads, Queries
from ...blocks.core.block import Block
from ...blocks.pointwise import Pointwise
from ...blocks.resampler import Resampler
from ..preset import Preset
from ..stack import Stack

__all__ = ["IDEFICS", "Flamingo"]


class Flamingo(Preset):
    """``perceiver resampler [> Linear]``; 64 tokens come out of any number.

    Used by OpenFlamingo and, with ReLU and wider heads, Idefics (`idefics`). Both hand the vision
    width on to the language model's cross-attention; where the two widths differ, a linear layer
    follows.

    Source: mlfoundations/open_flamingo, ``open_flamingo/src/helpers.py``
    (`PerceiverResampler`); huggingface/transformers, ``models/idefics/perceiver.py``
    (`IdeficsPerceiverResampler`).

    Traps: the latents are among the keys and values, each side normed by itself; Idefics may norm
    queries and keys too. OpenFlamingo's optional embeddings of frames and media are not here.

    Attributes:
        queries: The number of latents, which is the number of tokens that come out.
        depth: The number of layers.
        heads: The number of heads.
        head_dim: The width of a head.
        act: The activation of the feed-forward layers.
        qk_norm: Whether each head's queries and keys pass a LayerNorm.
    """

    queries: Queries = 64
    depth: Depth = 6
    heads: Heads = 8
    head_dim: Annotated[int, Field(ge=1, le=1024)] = 64
    act: Literal["gelu", "relu"] = "gelu"
    qk_norm: bool = False

    def expand(self, in_: int, out: int) -> Stack:
        resampler = Resampler(
            queries=self.queries,
            depth=self.depth,
            heads=self.heads,
            head_dim=self.head_dim,
            ffn=self.act,
            qk_norm=self.qk_norm,
        )
        last: tuple[Block, ...] = (Pointwise(),) if in_ != out else ()
        return Stack(in_=in_, out=out, blocks=(resampler, *last))


IDEFICS = Flamingo(heads=16, head_dim=96, act="relu")
