"""Linear layers with an activation between each two."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from ...blocks.core.activation import Act
from ...blocks.core.block import Block
from ...blocks.norm_act import NormAct
from ...blocks.pointwise import Pointwise
from ..preset import Preset
from ..stack import Stack

__all__ = [f"MLP{n}X_GELU" for n in range(1, 9)] + ["LLAVA", "Mlp"]


class Mlp(Preset):
    """``Linear(in, out) > [act > Linear(out, out)] x (depth - 1)`` on every token.

    Used by the LLaVA line from 1.5 on; its strings ``mlp1x_gelu`` to ``mlp8x_gelu`` are names of
    this preset at that depth.

    Source: haotian-liu/LLaVA, ``llava/model/multimodal_projector/builder.py``
    (`build_vision_projector`).

    Attributes:
        depth: The number of linear layers.
        act: The activation; ``gelu`` is the exact form.
        bias: Whether the layers have biases.
    """

    depth: Annotated[int, Field(ge=1, le=64)] = 2
    act: Act = "gelu"
    bias: bool = True

    def expand(self, in_: int, out: int) -> Stack:
        layer = Pointwise(bias=self.bias)
        blocks: list[Block] = [layer]
        for _ in range(self.depth - 1):
            blocks += [NormAct(norm="none", act=self.act), layer]
        return Stack(in_=in_, out=out, blocks=tuple(blocks))


MLP1X_GELU, MLP2X_GELU, MLP3X_GELU, MLP4X_GELU = (Mlp(depth=n, act="gelu") for n in range(1, 5))
MLP5X_GELU, MLP6X_GELU, MLP7X_GELU, MLP8X_GELU = (Mlp(depth=n, act="gelu") for n in range(5, 9))
LLAVA = Mlp()
