"""Idefics3's connector."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ...blocks.core.block import Block
from ...blocks.norm_act import NormAct
from ...blocks.patch_merge import PatchMerge
from ...blocks.pointwise import Pointwise
from ..preset import Preset
from ..stack import Stack

__all__ = ["Idefics3"]


class Idefics3(Preset):
    """``merge s x s (hwc) > Linear`` without bias; 1 token of s * s comes out.

    Used by Idefics3 (merge 2), SmolVLM (2 to 4), ModernVBERT, nanoVLM (4) and, with an RMS norm at
    the end, UltraVBERT.

    Source: huggingface/transformers, ``models/idefics3/modeling_idefics3.py``
    (`Idefics3Connector`).

    Traps: no bias, and no norm but UltraVBERT's; upstream takes square grids only.

    Attributes:
        merge: The side s of the merged windows.
        norm: What follows the linear layer: ``none`` or ``rms``.
        eps: Of the norm.
    """

    merge: Annotated[int, Field(ge=1, le=16)] = 2
    norm: Literal["none", "rms"] = "none"
    eps: float = 1e-6

    def expand(self, in_: int, out: int) -> Stack:
        blocks: list[Block] = [PatchMerge(size=(self.merge, self.merge)), Pointwise(bias=False)]
        if self.norm != "none":
            blocks.append(NormAct(norm=self.norm, eps=self.eps, act="none"))
        return Stack(in_=in_, out=out, blocks=tuple(blocks))
