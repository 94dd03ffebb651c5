"""MiniCPM-V's resampler."""

from __future__ import annotations

from typing import Literal

from ...blocks.attention import Heads, Queries
from ...blocks.query_resampler import QueryResampler
from ..preset import Preset
from ..stack import Stack

__all__ = ["MiniCPMV"]


class MiniCPMV(Preset):
    """``LN(Linear) > cross-attention of queries > LN > Linear``; 64 tokens come out of any grid.

    Used by MiniCPM-V 2.5 (96 queries), 2.6 to 4.5 and MiniCPM-o (64) and, with other `places`,
    MiniCPM-V 1.0 and 2.0; `minicpmv4-6` merges patches instead.

    Source: OpenBMB/MiniCPM-V, ``omnilmm/model/resampler.py`` (`Resampler`); vllm-project/vllm,
    ``vllm/model_executor/models/minicpmv.py`` (`Resampler2_5`).

    Traps: the column's half of the places stands first; the last layer is stored as (in, out).
    Places in time, which MiniCPM-V 4.5 gives to the frames of a video, are not here.

    Attributes:
        queries: The number of queries, which is the number of tokens that come out.
        heads: The number of heads; None is one for every 128 channels, as released.
        places: What has a place: ``keys`` (from 2.5 on), ``both`` (2.0) or ``resized`` (1.0), as
            in the block `query-resampler`.
    """

    queries: Queries = 64
    heads: Heads | None = None
    places: Literal["keys", "both", "resized"] = "keys"

    def expand(self, in_: int, out: int) -> Stack:
        resampler = QueryResampler(
            queries=self.queries, heads=self.heads or max(out // 128, 1), places=self.places
        )
        return Stack(in_=in_, out=out, blocks=(resampler,))
