"""Gemma 3n's vision embedder."""

from __future__ import annotations

from ..blocks.norm_act import NormAct
from ..blocks.pointwise import Pointwise
from .preset import Preset
from .stack import Stack

__all__ = ["Gemma3n"]


class Gemma3n(Preset):
    """``RMS norm > Linear > RMS norm without weight`` on every token.

    Used by Gemma 3n. Source: `Gemma3nMultimodalEmbedder` of transformers.

    Traps: the caller multiplies the features by the root of their width first (`scale` would do
    that here); the norms multiply their weight in fp32; the embedder's table of hard tokens
    belongs to the language model, not here.

    Attributes:
        eps: Of both norms.
    """

    eps: float = 1e-6

    def expand(self, in_: int, out: int) -> Stack:
        return Stack(
            in_=in_,
            out=out,
            blocks=(
                NormAct(norm="rms", eps=self.eps, cast="after", act="none"),
                Pointwise(bias=False),
                NormAct(norm="rms", eps=self.eps, weight="none", act="none"),
            ),
        )
