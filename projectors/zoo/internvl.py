"""InternVL's projector and those like it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ...blocks.core.activation import Act
from ...blocks.core.block import Block
from ...blocks.core.feature import Width
from ...blocks.norm_act import NormAct
from ...blocks.patch_merge import PatchMerge
from ...blocks.pointwise import Pointwise
from ..preset import Preset
from ..stack import Stack

__all__ = ["LFM2_VL", "NEMOTRON_OMNI", "NVILA", "InternVL"]


class InternVL(Preset):
    """``merge 2x2 (hwc) > norm > Linear > act > Linear``; a quarter of the tokens comes out.

    Used by InternVL 2 to 3.5, QianfanOCR and, with options, NVILA, LFM2-VL and Nemotron-Omni; NVILA
    pads odd sides, LFM2-VL has an inner width of its own and its norm is optional, Nemotron-Omni
    has an RMS norm whose weight multiplies in fp32, squared ReLU and no biases.

    Source: huggingface/transformers, ``models/internvl/modeling_internvl.py``
    (`InternVLModel.pixel_shuffle`, `InternVLMultiModalProjector`).

    Traps: the CLS token is dropped before (``prefix_tokens=1``); InternVL's first version and
    VILA before NVILA put the merged tokens column by column (``transpose``).

    Attributes:
        merge: The side of the merged windows.
        odd: What to do with odd sides: ``refuse``, or ``pad`` with zeros.
        transpose: Put the merged tokens column by column.
        norm: ``layer``, ``rms`` or ``none``.
        eps: Of the norm.
        hidden: The inner width.
        act: The activation.
        bias: Whether the linear layers have biases.
    """

    merge: Annotated[int, Field(ge=1, le=16)] = 2
    odd: Literal["refuse", "pad"] = "refuse"
    transpose: bool = False
    norm: Literal["layer", "rms", "none"] = "layer"
    eps: float = 1e-5
    hidden: Width = "out"
    act: Act = "gelu"
    bias: bool = True

    def expand(self, in_: int, out: int) -> Stack:
        merge = PatchMerge(size=(self.merge, self.merge), odd=self.odd, transpose=self.transpose)
        norms: tuple[Block, ...] = ()
        if self.norm != "none":
            cast: Literal["before", "after"] = "after" if self.norm == "rms" else "before"
            norms = (NormAct(norm=self.norm, eps=self.eps, cast=cast, act="none"),)
        return Stack(
            in_=in_,
            out=out,
            blocks=(
                merge,
                *norms,
                Pointwise(out=self.hidden, bias=self.bias),
                NormAct(norm="none", act=self.act),
                Pointwise(bias=self.bias),
            ),
        )


NVILA = InternVL(odd="pad")
LFM2_VL = InternVL()
NEMOTRON_OMNI = InternVL(norm="rms", act="relu2", bias=False)
