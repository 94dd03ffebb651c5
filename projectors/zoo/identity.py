"""No projector at all."""

from __future__ import annotations

from typing import ClassVar

from ...blocks.identity import Identity as IdentityBlock
from ..preset import Aliases, Preset
from ..stack import Stack

__all__ = ["Identity"]


class Identity(Preset):
    """Pass the tokens through; the two widths must be equal.

    Source: haotian-liu/LLaVA, ``llava/model/multimodal_projector/builder.py`` (`IdentityMap`).
    """

    def expand(self, in_: int, out: int) -> Stack:
        return Stack(in_=in_, out=out, blocks=(IdentityBlock(),))

    aliases: ClassVar[Aliases] = {"IdentityMap": {}}
