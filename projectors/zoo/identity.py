"""No projector at all."""

from __future__ import annotations

from ...blocks.identity import Identity as IdentityBlock
from ..preset import Preset
from ..stack import Stack

__all__ = ["Identity"]


class Identity(Preset):
    """Pass the tokens through; the two widths must be equal.

    Source: haotian-liu/LLaVA, ``llava/model/multimodal_projector/builder.py`` (`IdentityMap`).
    """

    def expand(self, in_: int, out: int) -> Stack:
        return Stack(in_=in_, out=out, blocks=(IdentityBlock(),))
