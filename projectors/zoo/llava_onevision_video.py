"""LLaVA-OneVision's projector on video frames."""

from __future__ import annotations

from ...blocks.pool import Pool
from ..preset import Preset
from ..stack import Stack
from ..upstream import Upstream
from .mlp import Mlp

__all__ = ["LlavaOnevisionVideo"]


class LlavaOnevisionVideo(Preset):
    """``Linear > GELU > Linear > bilinear down-scaling``; about 1 token of 4 comes out.

    Used by LLaVA-OneVision on video frames.

    Source: huggingface/transformers, ``models/llava_onevision/modeling_llava_onevision.py``
    (`LlavaOnevisionModel.apply_pooling`); Li et al., "LLaVA-OneVision", 2024.

    Traps: the side is rounded up (27 -> 14); corners are not aligned.
    """

    def expand(self, in_: int, out: int) -> Stack:
        mlp = Mlp().expand(in_, out).blocks
        return Stack(in_=in_, out=out, blocks=(*mlp, Pool(mode="bilinear", stride=2)))

    # A checkpoint has the weights of `mlp`, which images pass without the pool.
    upstream = (Upstream("llava", ("linear_1", "linear_2")),)
