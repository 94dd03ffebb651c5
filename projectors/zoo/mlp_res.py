"""An MLP followed by residual blocks."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from ...blocks.core.block import Block
from ...blocks.norm_act import NormAct
from ...blocks.pointwise import Pointwise
from ...blocks.residual import Residual
from ..preset import Preset
from ..stack import Stack
from .mlp import Mlp

__all__ = ["MLP2X_RES2X_GELU", "MlpRes"]


class MlpRes(Preset):
    """``MLP > [x = LN(x); x = x + (Linear > GELU > Linear)(x)] x residuals`` on every token.

    Source: LLaVA-VL/LLaVA-NeXT, ``llava/model/multimodal_projector/builder.py``
    (`build_vision_projector`).

    Traps: the residual starts from the *normed* input; the LayerNorm's eps is 1e-5.

    Attributes:
        depth: The number of linear layers of the MLP.
        residuals: The number of residual blocks.
    """

    depth: Annotated[int, Field(ge=1, le=16)] = 2
    residuals: Annotated[int, Field(ge=1, le=16)] = 2

    def expand(self, in_: int, out: int) -> Stack:
        body = (Pointwise(), NormAct(norm="none", act="gelu"), Pointwise())
        step: tuple[Block, ...] = (
            NormAct(norm="layer", eps=1e-5, act="none"),
            Residual(body=body),
        )
        mlp = Mlp(depth=self.depth).expand(in_, out).blocks
        return Stack(in_=in_, out=out, blocks=(*mlp, *step * self.residuals))


MLP2X_RES2X_GELU = MlpRes(depth=2, residuals=2)
