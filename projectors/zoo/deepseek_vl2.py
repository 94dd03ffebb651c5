"""DeepSeek-VL2's projector."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ...blocks.core.block import Block
from ...blocks.norm_act import NormAct
from ...blocks.patch_merge import PatchMerge
from ...blocks.pointwise import Pointwise
from ..preset import Preset
from ..stack import Stack

__all__ = ["DeepseekVL2"]


class DeepseekVL2(Preset):
    """``pad to even > merge 2x2 (chw) > Linear > [GELU > Linear] x (depth - 1)``.

    Used by DeepSeek-VL2. Its types are ``downsample_mlp_gelu`` and ``token_pooling``.

    Source: deepseek-ai/DeepSeek-VL2, ``deepseek_vl2/models/modeling_deepseek_vl_v2.py``
    (`MlpProjector`).

    Traps: zeros are padded below and to the right of odd sides; the merge is an unfold; the inner
    width is `ratio` times the output's, which upstream calls mlp_ratio; the image's newline and
    separator tokens belong to the model around it.

    Attributes:
        mode: ``mlp``, or ``pooling``: a layer back to the input's width stands first.
        depth: The number of linear layers after the merge.
        ratio: The inner width over the output's.
    """

    mode: Literal["mlp", "pooling"] = "mlp"
    depth: Annotated[int, Field(ge=1, le=16)] = 2
    ratio: Annotated[int, Field(ge=1, le=16)] = 1

    def expand(self, in_: int, out: int) -> Stack:
        inner = out * self.ratio
        blocks: list[Block] = [PatchMerge(order="chw", odd="pad")]
        if self.mode == "pooling":
            blocks.append(Pointwise(out="in"))
        for step in range(self.depth):
            if step:
                blocks.append(NormAct(norm="none", act="gelu"))
            blocks.append(Pointwise(out=out if step == self.depth - 1 else inner))
        return Stack(in_=in_, out=out, blocks=tuple(blocks))
