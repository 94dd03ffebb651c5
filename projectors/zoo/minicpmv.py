"""MiniCPM-V's resampler."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal

from ...blocks.attention import Heads, Queries
from ...blocks.query_resampler import QueryResampler
from ..preset import Aliases, Preset, TokensBy
from ..stack import Stack
from ..upstream import Checkpoint, Fused, Match, Name, Upstream

__all__ = ["MiniCPMV", "resampler_names"]


def resampler_names(path: str) -> Callable[[Stack], list[str | Name | Fused]]:
    """Return the names below a path, which does not stand before the last two."""

    def names(stack: Stack) -> list[str | Name | Fused]:
        block = stack.blocks[0]
        has_table = isinstance(block, QueryResampler) and block.places != "keys"
        return [
            Name(f"{path}query", "bare"),
            *([f"{path}kv_proj"] if stack.in_ != stack.out else []),
            f"{path}ln_kv",
            f"{path}ln_q",
            *([Name(f"{path}pos_embed", "bare")] if has_table else []),
            Fused(f"{path}attn.in_proj", (0, 1, 2), "_"),
            f"{path}attn.out_proj",
            "ln_post",
            Name("proj", "matrix"),
        ]

    return names


def _read(ckpt: Checkpoint) -> Match:
    queries, out = ckpt.matrix("query")
    in_ = ckpt.matrix("kv_proj.weight")[1] if "kv_proj.weight" in ckpt.shapes else out
    places = "keys"
    if "pos_embed" in ckpt.shapes:
        # 2.0 slices images, and computes the positions of each slice's grid.
        places = "both" if "slice_mode" in ckpt.config else "resized"
    return Match(in_, out, {"queries": queries, "places": places})


class MiniCPMV(Preset):
    """``LN(Linear) > cross-attention of queries > LN > Linear``; 64 tokens come out of any grid.

    Used by MiniCPM-V 2.5 (96 queries), 2.6 to 4.5 and MiniCPM-o (64) and, with other `places`,
    MiniCPM-V 1.0 and 2.0; `minicpmv4-6` merges patches instead.

    Source: OpenBMB/MiniCPM-V, ``omnilmm/model/resampler.py`` (`Resampler`); vllm-project/vllm,
    ``vllm/model_executor/models/minicpmv.py`` (`Resampler2_5`); Yao et al., "MiniCPM-V", 2024.

    Traps: the first half of the position channels encodes the column; the last layer is stored as
    (in, out). The temporal positions of MiniCPM-V 4.5's video frames are left out.

    Attributes:
        queries: The number of queries, which is the number of tokens that come out.
        heads: The number of heads; None is one for every 128 channels, as released.
        places: What has a position: ``keys`` (from 2.5 on), ``both`` (2.0) or ``resized`` (1.0), as
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

    aliases: ClassVar[Aliases] = {"Resampler2_5": {}}
    models: ClassVar[Aliases] = {
        "MiniCPM-V": {},
        "MiniCPM-V 1.0": {"places": "resized"},
        "MiniCPM-V 2.0": {"places": "both"},
        "MiniCPM-V 2.5": {"queries": 96},
        "MiniCPM-V 2.6": {},
        "MiniCPM-V 4.0": {},
        "MiniCPM-V 4.5": {},
        "MiniCPM-o": {},
    }
    tokens_by: ClassVar[TokensBy] = {"queries": lambda tokens, _: tokens}
    upstream = (
        Upstream(
            "minicpmv",
            resampler_names(""),
            prefix="resampler",
            tensors=("query", "ln_kv.weight", "proj"),
            read=_read,
            model_types=("minicpmv", "minicpmo"),
        ),
    )
