"""One linear layer."""

from __future__ import annotations

from ...blocks.pointwise import Pointwise
from ..preset import Preset
from ..stack import Stack

__all__ = ["PALIGEMMA", "Linear"]


class Linear(Preset):
    """``Linear(in, out)`` on every token.

    Used by LLaVA 1.0 and PaliGemma.

    Source: haotian-liu/LLaVA, ``llava/model/multimodal_projector/builder.py``
    (`build_vision_projector`).

    Attributes:
        bias: Whether the layer has a bias.
    """

    bias: bool = True

    def expand(self, in_: int, out: int) -> Stack:
        return Stack(in_=in_, out=out, blocks=(Pointwise(bias=self.bias),))


PALIGEMMA = Linear()
