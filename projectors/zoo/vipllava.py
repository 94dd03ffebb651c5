"""VipLLaVA's projector."""

from __future__ import annotations

from ...blocks.norm_act import NormAct
from ...blocks.pointwise import Pointwise
from ..preset import Preset
from ..stack import Stack

__all__ = ["VipLlava"]


class VipLlava(Preset):
    """``LN > Linear > GELU > Linear`` on every token.

    Used by VipLLaVA.

    Source: huggingface/transformers, ``models/vipllava/modeling_vipllava.py``
    (`VipLlavaMultiModalProjector`).

    Traps: the input is five levels of the tower concatenated on channels, the CLS token cropped
    from each before that; the LayerNorm's eps is 1e-5.

    Attributes:
        eps: Of the LayerNorm.
    """

    eps: float = 1e-5

    def expand(self, in_: int, out: int) -> Stack:
        return Stack(
            in_=in_,
            out=out,
            blocks=(
                NormAct(norm="layer", eps=self.eps, act="none"),
                Pointwise(),
                NormAct(norm="none", act="gelu"),
                Pointwise(),
            ),
        )
