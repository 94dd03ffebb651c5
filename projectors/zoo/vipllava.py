"""VipLLaVA's projector."""

from __future__ import annotations

from typing import ClassVar

from ...blocks.core.activation import Act
from ...blocks.norm_act import NormAct
from ...blocks.pointwise import Pointwise
from ..preset import Aliases, Preset
from ..stack import Stack
from ..upstream import Checkpoint, Match, Upstream

__all__ = ["VipLlava"]


def _read(ckpt: Checkpoint) -> Match:
    out, in_ = ckpt.matrix("linear_1.weight")
    eps = ckpt.setting("projector_layernorm_eps", 1e-5)
    return Match(in_, out, {"eps": eps, "act": ckpt.act()})


class VipLlava(Preset):
    """``LN > Linear > GELU > Linear`` on every token.

    Used by VipLLaVA.

    Source: huggingface/transformers, ``models/vipllava/modeling_vipllava.py``
    (`VipLlavaMultiModalProjector`); Cai et al., "ViP-LLaVA", 2023.

    Note: its input is five levels of the tower joined on channels, five times the width that others
    read.

    Traps: the input is five levels of the tower concatenated on channels, the CLS token cropped
    from each before that; the LayerNorm's eps is 1e-5.

    Attributes:
        eps: Of the LayerNorm.
        act: The activation; ``gelu`` is the exact form.
    """

    eps: float = 1e-5
    act: Act = "gelu"

    def expand(self, in_: int, out: int) -> Stack:
        blocks = (
            NormAct(norm="layer", eps=self.eps, act="none"),
            Pointwise(),
            NormAct(norm="none", act=self.act),
            Pointwise(),
        )
        return Stack(in_=in_, out=out, blocks=blocks)

    aliases: ClassVar[Aliases] = {"VipLlavaMultiModalProjector": {}}
    models: ClassVar[Aliases] = {"VipLLaVA": {}}
    upstream = (
        Upstream(
            "vipllava",
            ("projector_layernorm", "linear_1", "linear_2"),
            prefix="multi_modal_projector",
            read=_read,
            model_types=("vipllava",),
            names_suffice=True,
        ),
    )
