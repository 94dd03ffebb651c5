"""No projector at all."""

from __future__ import annotations

from ..blocks.identity import Identity as IdentityBlock
from .preset import Preset
from .stack import Stack

__all__ = ["Identity"]


class Identity(Preset):
    """Hand the tokens on; the two widths must be equal.

    Source: `IdentityMap` of LLaVA's `build_vision_projector`.
    """

    def expand(self, in_: int, out: int) -> Stack:
        return Stack(in_=in_, out=out, blocks=(IdentityBlock(),))
