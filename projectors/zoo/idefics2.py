"""Idefics2's connector."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from ...blocks.attention import Depth, Heads, Queries
from ...blocks.core.feature import MAX_WIDTH
from ...blocks.glu import Glu
from ...blocks.pointwise import Pointwise
from ...blocks.resampler import Resampler
from ..preset import Preset
from ..stack import Stack

__all__ = ["Idefics2"]


class Idefics2(Preset):
    """``SwiGLU > Linear > perceiver resampler``; 64 tokens come out of any number.

    Used by Idefics2.

    Source: huggingface/transformers, ``models/idefics2/modeling_idefics2.py``
    (`Idefics2Connector`).

    Traps: the tokens get the language model's width before they are resampled; no layer has a
    bias; the eps is the perceiver's, not the language model's; keys and values have fewer heads.
    Padding has no place here: give each image its own tokens.

    Attributes:
        hidden: The inner width of the first SwiGLU, which is the language model's own.
        queries: The number of latents, which is the number of tokens that come out.
        depth: The number of layers.
        heads: The number of heads.
        kv_heads: The number of heads of keys and values.
        head_dim: The width of a head.
        eps: Of the norms.
    """

    hidden: Annotated[int, Field(ge=1, le=MAX_WIDTH)] = 14336
    queries: Queries = 64
    depth: Depth = 3
    heads: Heads = 16
    kv_heads: Heads = 4
    head_dim: Annotated[int, Field(ge=1, le=1024)] = 96
    eps: float = 1e-6

    def expand(self, in_: int, out: int) -> Stack:
        return Stack(
            in_=in_,
            out=out,
            blocks=(
                Glu(out=self.hidden, act="silu", bias=False),
                Pointwise(bias=False),
                Resampler(
                    queries=self.queries,
                    depth=self.depth,
                    heads=self.heads,
                    head_dim=self.head_dim,
                    kv_heads=self.kv_heads,
                    norm="rms",
                    eps=self.eps,
                    ffn="swiglu",
                ),
            ),
        )
