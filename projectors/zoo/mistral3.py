"""Mistral 3's projector."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from ...blocks.norm_act import NormAct
from ...blocks.patch_merge import PatchMerge
from ...blocks.pointwise import Pointwise
from ..preset import Preset
from ..stack import Stack

__all__ = ["Mistral3"]


class Mistral3(Preset):
    """``RMS norm > merge 2x2 (chw) > Linear(in) > Linear > GELU > Linear``; a quarter comes out.

    Used by Mistral Small 3.1 and later, LightOnOCR.

    Source: huggingface/transformers, ``models/mistral3/modeling_mistral3.py``
    (`Mistral3MultiModalProjector`).

    Traps: the merge is an unfold, so channels stand channel by channel and an odd last row or
    column is dropped; the norm's eps is the *text* model's; no biases unless asked for.

    Attributes:
        merge: The side of the merged windows.
        eps: Of the norm.
        bias: Whether the last two linear layers have biases.
    """

    merge: Annotated[int, Field(ge=1, le=16)] = 2
    eps: float = 1e-5
    bias: bool = False

    def expand(self, in_: int, out: int) -> Stack:
        return Stack(
            in_=in_,
            out=out,
            blocks=(
                NormAct(norm="rms", eps=self.eps, act="none"),
                PatchMerge(size=(self.merge, self.merge), order="chw", odd="drop"),
                Pointwise(out="in", bias=False),
                Pointwise(bias=self.bias),
                NormAct(norm="none", act="gelu"),
                Pointwise(bias=self.bias),
            ),
        )
