"""Fuyu's patch embedding, which takes the place of a vision tower and a projector."""

from __future__ import annotations

from typing import ClassVar

from ...blocks.pointwise import Pointwise
from ..preset import Aliases, Preset
from ..stack import Stack
from ..upstream import Checkpoint, Match, Upstream

__all__ = ["Fuyu"]


def _read(ckpt: Checkpoint) -> Match:
    out, in_ = ckpt.matrix("weight")
    return Match(in_, out)


class Fuyu(Preset):
    """``Linear(patch * patch * channels, out)`` on every patch of pixels.

    Used by Fuyu (30x30 pixels of 3 channels: 2700 -> 4096).

    Source: huggingface/transformers, ``models/fuyu/modeling_fuyu.py`` (`FuyuModel`).

    Traps: there is no vision tower: the input is pixels, each patch flattened with its channels
    last; the newline after each row of patches is a text token of the language model.
    """

    def expand(self, in_: int, out: int) -> Stack:
        return Stack(in_=in_, out=out, blocks=(Pointwise(),))

    models: ClassVar[Aliases] = {"Fuyu": {}}
    upstream = (
        Upstream("fuyu", ("",), prefix="vision_embed_tokens", read=_read, model_types=("fuyu",)),
    )
