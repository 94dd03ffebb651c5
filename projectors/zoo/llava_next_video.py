"""LLaVA-NeXT-Video's pooler and projector."""

from __future__ import annotations

from typing import ClassVar, Literal

from ...blocks.core.block import Block
from ...blocks.patch_merge import PatchMerge
from ...blocks.pointwise import Pointwise
from ...blocks.pool import Pool
from ..preset import MERGES, Aliases, Preset, TokensBy, UpTo16
from ..stack import Stack
from ..upstream import Name, Upstream
from .mlp import Mlp

__all__ = ["LlavaNextVideo"]


class LlavaNextVideo(Preset):
    """``pool s x s > Linear > GELU > Linear``; 1 token of s * s comes out.

    Used by LLaVA-NeXT-Video.

    Source: huggingface/transformers, ``models/llava_next_video/modeling_llava_next_video.py``
    (`LlavaNextVideoPooler`, `LlavaNextVideoMultiModalProjector`).

    Traps: a pool by convolution is a merge with order ``chw`` and a linear layer.

    Attributes:
        mode: ``avg``, ``max`` or ``conv``.
        stride: The side s of the windows.
    """

    mode: Literal["avg", "max", "conv"] = "avg"
    stride: UpTo16 = 2

    def expand(self, in_: int, out: int) -> Stack:
        pool: tuple[Block, ...]
        if self.mode == "conv":
            merge = PatchMerge(size=(self.stride, self.stride), order="chw", odd="drop")
            pool = (merge, Pointwise(out="in"))
        else:
            pool = (Pool(mode=self.mode, stride=self.stride),)
        return Stack(in_=in_, out=out, blocks=(*pool, *Mlp().expand(in_, out).blocks))

    models: ClassVar[Aliases] = {"LLaVA-NeXT-Video": {}}
    tokens_by: ClassVar[TokensBy] = {"stride": MERGES}
    upstream = (
        Upstream("llava", ("linear_1", "linear_2")),
        Upstream("llava-pooled", (Name("pooler.pool", "conv", (2, 2)), "linear_1", "linear_2")),
    )
