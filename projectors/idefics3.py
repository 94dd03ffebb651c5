"""Idefics3's connector."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from ..blocks.patch_merge import PatchMerge
from ..blocks.pointwise import Pointwise
from .preset import Preset
from .stack import Stack

__all__ = ["Idefics3"]


class Idefics3(Preset):
    """``merge s x s (hwc) > Linear`` without bias; 1 token of s * s comes out.

    Used by Idefics3 (merge 2), SmolVLM (2 to 4), ModernVBERT, nanoVLM (4). Source:
    `Idefics3Connector` of transformers.

    Traps: no norm, no bias; upstream takes square grids only.

    Attributes:
        merge: The side s of the merged windows.
    """

    merge: Annotated[int, Field(ge=1, le=16)] = 2

    def expand(self, in_: int, out: int) -> Stack:
        blocks = (PatchMerge(size=(self.merge, self.merge)), Pointwise(bias=False))
        return Stack(in_=in_, out=out, blocks=blocks)
