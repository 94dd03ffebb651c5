"""Qwen-VL's resampler, the one of 2023."""

from __future__ import annotations

from ...blocks.attention import Heads, Queries
from ...blocks.query_resampler import QueryResampler
from ..preset import Preset
from ..stack import Stack
from ..upstream import Config, Fused, Match, Name, Shapes, Upstream, matrix

__all__ = ["QwenVL"]


def _names(stack: Stack) -> list[str | Name | Fused]:
    kv = ["attn_pool.kv_proj"] if stack.in_ != stack.out else []
    return [
        Name("attn_pool.query", "bare"),
        *kv,
        "attn_pool.ln_kv",
        "attn_pool.ln_q",
        Name("attn_pool.pos_embed", "bare"),
        Fused("attn_pool.attn.in_proj", (0, 1, 2), "_"),
        "attn_pool.attn.out_proj",
        "ln_post",
        Name("proj", "matrix"),
    ]


def _read(config: Config, shapes: Shapes) -> Match:
    queries, out = matrix(shapes, "attn_pool.query")
    linear = "attn_pool.kv_proj.weight"
    in_ = matrix(shapes, linear)[1] if linear in shapes else out
    return Match(in_, out, {"queries": queries})


class QwenVL(Preset):
    """``LN(Linear) > cross-attention of queries > LN > Linear``; 256 tokens come out of any grid.

    Used by Qwen-VL of 2023; from Qwen2-VL on it is `qwen2-vl`.

    Source: Bai et al., "Qwen-VL", 2023; vllm-project/vllm,
    ``vllm/model_executor/models/qwen_vl.py`` (`VisionTransformer`); vllm-project/vllm,
    ``vllm/model_executor/layers/resampler.py`` (`Resampler2`).

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

    upstream = (
        Upstream(
            "qwen-vl",
            _names,
            prefix="visual",
            tensors=("attn_pool.query", "ln_post.weight", "proj"),
            read=_read,
            model_types=("qwen",),
            prefixes=("attn_pool.", "ln_post.", "proj"),
            names_suffice=True,
        ),
    )
