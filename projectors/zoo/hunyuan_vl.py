"""The patch merger of HunYuan-VL."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from ...blocks.extra_tokens import ExtraTokens
from ...blocks.newline import Newline
from ...blocks.norm_act import NormAct
from ...blocks.patch_merge import PatchMerge
from ...blocks.pointwise import Pointwise
from ..preset import Preset
from ..stack import Stack

__all__ = ["HunYuanVL"]


class HunYuanVL(Preset):
    """Merge 2x2, end every row with a newline token, and put a token before and after the image.

    ``RMS > merge 2x2 (chw) > Linear (2 in) > GELU > Linear (4 in) > newline > Linear > begin,
    end > RMS``: h x w tokens become ``h/2 * (w/2 + 1) + 2``.

    Used by HunYuan-VL and HunYuan-OCR.

    Source: huggingface/transformers, ``models/hunyuan_vl/modeling_hunyuan_vl.py``
    (`HunYuanVLVisionPatchMerger`).

    Traps: the newline is ``4 in`` wide and goes through the last linear layer; begin and end are
    `out` wide, and are normalised with the rest. Odd sides lose their last row or column. The
    merge is a convolution upstream, its channels in order chw. Upstream's ``image_sep`` is not
    used.

    Attributes:
        merge: The side of the merged windows.
        eps: Of both norms.
    """

    merge: Annotated[int, Field(ge=1, le=16)] = 2
    eps: float = 1e-5

    def expand(self, in_: int, out: int) -> Stack:
        norm = NormAct(norm="rms", eps=self.eps, act="none")
        return Stack(
            in_=in_,
            out=out,
            blocks=(
                norm,
                PatchMerge(size=(self.merge, self.merge), order="chw", odd="drop"),
                Pointwise(out=2 * in_),
                NormAct(norm="none", act="gelu"),
                Pointwise(out=4 * in_),
                Newline(),
                Pointwise(),
                ExtraTokens(at="begin"),
                ExtraTokens(at="end"),
                norm,
            ),
        )
