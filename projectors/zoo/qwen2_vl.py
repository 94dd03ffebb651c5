"""The patch merger of the Qwen-VL models and of those that took it over."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ...blocks.core.activation import Act
from ...blocks.core.block import Block
from ...blocks.core.feature import MAX_WIDTH
from ...blocks.norm_act import NormAct
from ...blocks.patch_merge import PatchMerge
from ...blocks.pointwise import Pointwise
from ..preset import Preset
from ..stack import Stack

__all__ = [
    "KIMI_K25",
    "LFM3_VL",
    "PADDLEOCR_VL",
    "QWEN2_5_VL",
    "QWEN3_VL",
    "QWEN3_VL_DEEPSTACK",
    "Qwen2VL",
]


class Qwen2VL(Preset):
    """``norm > merge 2x2 (hwc) > Linear > GELU > Linear``; a quarter of the tokens comes out.

    Used by Qwen2-VL to Qwen3.5-VL (RMS norm in Qwen2.5), Kimi-K2.5, PaddleOCR-VL, LFM3-VL,
    Inkling 2 (no norm) and many more.

    Source: huggingface/transformers, ``models/qwen2_vl/modeling_qwen2_vl.py`` (`PatchMerger`).

    Traps: Qwen's towers hand over their tokens block by block, four neighbours together
    (``token_order="blocked"``); PaddleOCR-VL's row by row. The eps is 1e-6, in Kimi and
    PaddleOCR-VL 1e-5. Qwen3-VL's deepstack mergers normalise after the merge.

    Attributes:
        norm: ``layer``, ``rms`` or ``none``.
        eps: Of the norm.
        norm_after: Normalise the merged tokens rather than the single ones.
        merge: The side of the merged windows.
        hidden: The inner width; None is that of a merged token.
        act: The activation; ``gelu`` is the exact form.
        bias: Whether the linear layers have biases.
        token_order: How the tokens come in: ``blocked`` or ``raster``.
    """

    norm: Literal["layer", "rms", "none"] = "layer"
    eps: float = 1e-6
    norm_after: bool = False
    merge: Annotated[int, Field(ge=1, le=16)] = 2
    hidden: Annotated[int, Field(ge=1, le=MAX_WIDTH)] | None = None
    act: Act = "gelu"
    bias: bool = True
    token_order: Literal["raster", "blocked"] = "blocked"

    def expand(self, in_: int, out: int) -> Stack:
        first: tuple[Block, ...] = (PatchMerge(size=(self.merge, self.merge)),)
        if self.norm != "none":
            norm = NormAct(norm=self.norm, eps=self.eps, act="none")
            first = (*first, norm) if self.norm_after else (norm, *first)
        return Stack(
            in_=in_,
            out=out,
            token_order=self.token_order,
            blocks=(
                *first,
                Pointwise(out=self.hidden or "same", bias=self.bias),
                NormAct(norm="none", act=self.act),
                Pointwise(bias=self.bias),
            ),
        )


QWEN2_5_VL = Qwen2VL(norm="rms")
QWEN3_VL = Qwen2VL()
QWEN3_VL_DEEPSTACK = Qwen2VL(norm_after=True)
KIMI_K25 = Qwen2VL(eps=1e-5)
PADDLEOCR_VL = Qwen2VL(eps=1e-5, token_order="raster")
LFM3_VL = Qwen2VL()
