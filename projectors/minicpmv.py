"""MiniCPM-V's resampler."""

from __future__ import annotations

from ..blocks.attention import Heads, Queries
from ..blocks.query_resampler import QueryResampler
from .preset import Preset
from .stack import Stack

__all__ = ["MiniCPMV"]


class MiniCPMV(Preset):
    """``LN(Linear) > cross-attention of queries > LN > Linear``; 64 tokens come out of any grid.

    Used by MiniCPM-V 2.5 (96 queries), 2.6 and MiniCPM-o 2.6 (64); `minicpmv4-6` merges patches
    instead. Source: `resampler.py` of the released models, `Resampler2_5` of vLLM.

    Traps: the places are added to the keys only, the column's half first; the last layer is stored
    as (in, out). Qwen-VL and MiniCPM-V 2.0 do otherwise: they add places to the queries too, and
    Qwen-VL scales those of a fixed grid.

    Attributes:
        queries: The number of queries, which is the number of tokens that come out.
        heads: The number of heads; None is one for every 128 channels, as released.
    """

    queries: Queries = 64
    heads: Heads | None = None

    def expand(self, in_: int, out: int) -> Stack:
        heads = self.heads or max(out // 128, 1)
        return Stack(in_=in_, out=out, blocks=(QueryResampler(queries=self.queries, heads=heads),))
