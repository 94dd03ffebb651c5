"""Qwen-VL's resampler, the first of its name."""

from __future__ import annotations

from ...blocks.attention import Heads, Queries
from ...blocks.query_resampler import QueryResampler
from ..preset import Preset
from ..stack import Stack

__all__ = ["QwenVL"]


class QwenVL(Preset):
    """``LN(Linear) > cross-attention of queries > LN > Linear``; 256 tokens come out of any grid.

    Used by Qwen-VL of 2023; from Qwen2-VL on it is `qwen2-vl`.

    Source: Bai et al., "Qwen-VL", 2023; vllm-project/vllm,
    ``vllm/model_executor/models/qwen_vl.py`` (`VisionTransformer`); vllm-project/vllm,
    ``vllm/model_executor/layers/resampler.py`` (`Resampler2`).

    Traps: queries and tokens both have places, the queries in a square of their own; the tokens'
    are the queries', scaled to their grid, and what is scaled is the saved table. The last norm
    and the last layer, stored as (in, out), are the tower's own, not the resampler's.

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
