"""Qwen-VL's resampler, the one of 2023."""

from __future__ import annotations

from typing import ClassVar

from ...blocks.attention import Heads, Queries
from ...blocks.query_resampler import QueryResampler
from ..preset import Aliases, Preset, TokensBy
from ..stack import Stack
from ..upstream import Checkpoint, Match, Upstream
from .minicpmv import resampler_names

__all__ = ["QwenVL"]


def _read(ckpt: Checkpoint) -> Match:
    queries, out = ckpt.matrix("attn_pool.query")
    linear = "attn_pool.kv_proj.weight"
    in_ = ckpt.matrix(linear)[1] if linear in ckpt.shapes else out
    return Match(in_, out, {"queries": queries})


class QwenVL(Preset):
    """``LN(Linear) > cross-attention of queries > LN > Linear``; 256 tokens come out of any grid.

    Used by Qwen-VL of 2023; from Qwen2-VL on it is `qwen2-vl`.

    Source: Bai et al., "Qwen-VL", 2023; vllm-project/vllm,
    ``vllm/model_executor/models/qwen_vl.py`` (`VisionTransformer`); vllm-project/vllm,
    ``vllm/model_executor/layers/resampler.py`` (`Resampler2`).

    Note: its authors count 0.08 B parameters, without the last norm and the last layer.

    Traps: queries and tokens both have positions. The queries' are a square grid; the tokens' are
    the same saved table, resized to their grid. The last norm and the last layer, stored as
    (in, out), are part of upstream's tower, not of its resampler.

    Attributes:
        queries: The number of queries, a square, which is the number of tokens that come out.
        heads: The number of heads; None is one for every 128 channels, as released.
    """

    queries: Queries = 256
    heads: Heads | None = None

    def expand(self, in_: int, out: int) -> Stack:
        heads = self.heads or max(out // 128, 1)
        resampler = QueryResampler(queries=self.queries, heads=heads, places="resized")
        return Stack(in_=in_, out=out, blocks=(resampler,))

    aliases: ClassVar[Aliases] = {"Resampler2": {}}
    models: ClassVar[Aliases] = {"Qwen-VL": {}}
    tokens_by: ClassVar[TokensBy] = {"queries": lambda tokens, _: tokens}
    upstream = (
        Upstream(
            "qwen-vl",
            resampler_names("attn_pool."),
            prefix="visual",
            tensors=("attn_pool.query", "ln_post.weight", "proj"),
            read=_read,
            model_types=("qwen",),
            prefixes=("attn_pool.", "ln_post.", "proj"),
            names_suffice=True,
        ),
    )
