"""Llama 4's adapter and projector."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from ...blocks.core.feature import MAX_WIDTH
from ...blocks.norm_act import NormAct
from ...blocks.patch_merge import PatchMerge
from ...blocks.pointwise import Pointwise
from ..preset import Preset
from ..stack import Stack

__all__ = ["Llama4"]


class Llama4(Preset):
    """``merge 2x2 (hwc) > Linear > GELU > Linear > GELU > Linear``; a quarter of the tokens.

    Used by Llama 4.

    Source: huggingface/transformers, ``models/llama4/modeling_llama4.py``
    (`Llama4VisionPixelShuffleMLP`, `Llama4MultiModalProjector`).

    Traps: no biases; a GELU after the second layer too; the tower puts its CLS token last and
    drops it there. Upstream's intermediate view is wrong unless the grid is square.

    Attributes:
        hidden: The width of the two inner layers.
    """

    hidden: Annotated[int, Field(ge=1, le=MAX_WIDTH)] = 4096

    def expand(self, in_: int, out: int) -> Stack:
        inner, gelu = Pointwise(out=self.hidden, bias=False), NormAct(norm="none", act="gelu")
        blocks = (PatchMerge(), inner, gelu, inner, gelu, Pointwise(bias=False))
        return Stack(in_=in_, out=out, blocks=blocks)
