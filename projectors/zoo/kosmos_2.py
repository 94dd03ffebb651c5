"""Kosmos-2's resampler."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, ClassVar

from pydantic import Field

from ...blocks.attention import Queries
from ...blocks.cross_attention import CrossAttention
from ...blocks.pointwise import Pointwise
from ..preset import Aliases, Preset, TokensBy
from ..stack import Stack
from ..upstream import Checkpoint, Match, Name, Upstream

__all__ = ["Kosmos2"]


def _reader(heads: int) -> Callable[[Checkpoint], Match]:
    """Return the reader for models whose default number of heads is this one."""

    def read(ckpt: Checkpoint) -> Match:
        queries, out = ckpt.matrix("latent_query")
        head_dim = out // ckpt.setting("text_config.attention_heads", heads)
        options = {"queries": queries, "head_dim": head_dim}
        return Match(ckpt.matrix("dense.weight")[1], out, options)

    return read


def _entry(model_type: str, heads: int) -> Upstream:
    return Upstream(
        "kosmos-2",
        (
            "dense",
            Name("latent_query", "bare"),
            *(f"x_attn.{part}_proj" for part in ("q", "k", "v", "out")),
        ),
        prefix="image_to_text_projection",
        tensors=("dense.weight", "latent_query", "x_attn.q_proj.weight"),
        read=_reader(heads),
        model_types=(model_type,),
    )


class Kosmos2(Preset):
    """``Linear > cross-attention of queries``; 64 tokens come out of any grid.

    Used by Kosmos-2 (64 queries) and Kosmos-2.5 (2048).

    Source: huggingface/transformers, ``models/kosmos2/modeling_kosmos2.py``
    (`Kosmos2ImageToTextProjection`); Peng et al., "Kosmos-2", 2023.

    Traps: the queries are keys and values too, after the tokens; there is neither a norm nor a
    residual. Kosmos-2.5 scales the tokens to unit length before, in its own code.

    Attributes:
        queries: The number of queries, which is the number of tokens that come out.
        head_dim: The width of a head; there is at least one.
    """

    queries: Queries = 64
    head_dim: Annotated[int, Field(ge=1, le=1024)] = 64

    def expand(self, in_: int, out: int) -> Stack:
        heads = max(out // self.head_dim, 1)
        attention = CrossAttention(queries=self.queries, heads=heads, self_keys=True)
        return Stack(in_=in_, out=out, blocks=(Pointwise(), attention))

    aliases: ClassVar[Aliases] = {
        "kosmos-2-5": {"queries": 2048, "head_dim": 96},
        "Kosmos2ImageToTextProjection": {},
        "Kosmos2_5ImageToTextProjection": {"queries": 2048, "head_dim": 96},
    }
    models: ClassVar[Aliases] = {"Kosmos-2": {}, "Kosmos-2.5": {"queries": 2048, "head_dim": 96}}
    tokens_by: ClassVar[TokensBy] = {"queries": lambda tokens, _: tokens}
    upstream = (_entry("kosmos-2", 32), _entry("kosmos-2.5", 16))
