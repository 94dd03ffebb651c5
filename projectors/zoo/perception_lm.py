"""An MLP with a pool behind it or before it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ...blocks.core.block import Block
from ...blocks.norm_act import NormAct
from ...blocks.patch_merge import PatchMerge
from ...blocks.pointwise import Pointwise
from ...blocks.pool import Pool
from ..preset import Preset
from ..stack import Stack

__all__ = ["LlavaNextVideo", "LlavaOnevisionVideo", "PerceptionLM"]

Stride = Annotated[int, Field(ge=1, le=16)]
_MLP: tuple[Block, ...] = (Pointwise(), NormAct(norm="none", act="gelu"), Pointwise())


class PerceptionLM(Preset):
    """``Linear > GELU > Linear > adaptive average pool``; 1 token of r * r comes out.

    Used by PerceptionLM.

    Source: huggingface/transformers, ``models/perception_lm/modeling_perception_lm.py``
    (`PerceptionLMMultiModalProjector`).

    Traps: the pool goes to side // r, so its windows overlap where r does not divide the side;
    with r = 1 there is none.

    Attributes:
        ratio: How many times fewer tokens each way, r.
    """

    ratio: Stride = 2

    def expand(self, in_: int, out: int) -> Stack:
        pool = (Pool(mode="adaptive", stride=self.ratio),) if self.ratio > 1 else ()
        return Stack(in_=in_, out=out, blocks=(*_MLP, *pool))


class LlavaNextVideo(Preset):
    """``pool s x s > Linear > GELU > Linear``; 1 token of s * s comes out.

    Used by LLaVA-NeXT-Video.

    Source: huggingface/transformers, ``models/llava_next_video/modeling_llava_next_video.py``
    (`LlavaNextVideoPooler`, `LlavaNextVideoMultiModalProjector`).

    Traps: a convolution as pool is a merge with order ``chw`` and a linear layer.

    Attributes:
        mode: ``avg``, ``max`` or ``conv``.
        stride: The side s of the windows.
    """

    mode: Literal["avg", "max", "conv"] = "avg"
    stride: Stride = 2

    def expand(self, in_: int, out: int) -> Stack:
        pool: tuple[Block, ...]
        if self.mode == "conv":
            merge = PatchMerge(size=(self.stride, self.stride), order="chw", odd="drop")
            pool = (merge, Pointwise(out="in"))
        else:
            pool = (Pool(mode=self.mode, stride=self.stride),)
        return Stack(in_=in_, out=out, blocks=(*pool, *_MLP))


class LlavaOnevisionVideo(Preset):
    """``Linear > GELU > Linear > bilinear down-scaling``; about 1 token of 4 comes out.

    Used by LLaVA-OneVision on video frames.

    Source: huggingface/transformers, ``models/llava_onevision/modeling_llava_onevision.py``
    (`LlavaOnevisionModel.apply_pooling`).

    Traps: the side is rounded up (27 -> 14); corners are not aligned.
    """

    def expand(self, in_: int, out: int) -> Stack:
        return Stack(in_=in_, out=out, blocks=(*_MLP, Pool(mode="bilinear", stride=2)))
