"""Aya Vision's and Command A Vision's projector."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from ...blocks.core.block import Block
from ...blocks.core.feature import MAX_WIDTH
from ...blocks.glu import Glu
from ...blocks.norm_act import Eps, NormAct
from ...blocks.patch_merge import PatchMerge
from ...blocks.pointwise import Pointwise
from ..preset import MERGES, Aliases, Preset, TokensBy, UpTo16
from ..stack import Stack
from ..upstream import Checkpoint, Fused, Match, Upstream, with_norm

__all__ = ["AyaVision"]


def _read(ckpt: Checkpoint) -> Match:
    hidden, wide = ckpt.matrix("linear_1.weight")
    merge = ckpt.option("merge", "downsample_factor", 2)
    norm = "layernorm.weight" in ckpt.shapes
    options = {"merge": merge, "hidden": hidden, "norm": norm}
    if norm:
        options["eps"] = ckpt.setting("adapter_layer_norm_eps", 1e-6)
    return Match(wide // merge**2, ckpt.matrix("linear_2.weight")[0], options)


class AyaVision(Preset):
    """``merge 2x2 (hwc) > [LN] > SwiGLU > Linear``; a quarter of the tokens comes out.

    Used by Aya Vision and, without the norm, Command A Vision (`cohere2-vision`).

    Source: huggingface/transformers, ``models/aya_vision/modeling_aya_vision.py``
    (`AyaVisionMultiModalProjector`); huggingface/transformers,
    ``models/cohere2_vision/modeling_cohere2_vision.py`` (`Cohere2VisionMultiModalProjector`); Dash
    et al., "Aya Vision", 2025.

    Traps: one layer of twice the width is split in two, the value first and the gate second; the
    LayerNorm's eps is 1e-6.

    Attributes:
        merge: The side of the merged windows.
        hidden: Upstream's alignment_intermediate_size: value and gate together, so an even number.
        norm: Whether there is a LayerNorm.
        eps: Of the LayerNorm.
    """

    merge: UpTo16 = 2
    hidden: Annotated[int, Field(ge=2, le=MAX_WIDTH, multiple_of=2)] = 28672
    norm: bool = True
    eps: Eps = 1e-6

    def expand(self, in_: int, out: int) -> Stack:
        norms: tuple[Block, ...] = (NormAct(norm="layer", eps=self.eps, act="none"),)
        blocks = (
            PatchMerge(size=(self.merge, self.merge)),
            *(norms if self.norm else ()),
            Glu(out=self.hidden // 2, act="silu"),
            Pointwise(),
        )
        return Stack(in_=in_, out=out, blocks=blocks)

    aliases: ClassVar[Aliases] = {
        "cohere2-vision": {"norm": False},
        "AyaVisionMultiModalProjector": {},
        "Cohere2VisionMultiModalProjector": {"norm": False},
    }
    models: ClassVar[Aliases] = {"Aya Vision": {}, "Command A Vision": {"norm": False}}
    tokens_by: ClassVar[TokensBy] = {"merge": MERGES}
    upstream = (
        Upstream(
            "aya-vision",
            with_norm("layernorm", Fused("linear_1"), "linear_2"),
            prefix="multi_modal_projector",
            tensors=("linear_1.weight", "linear_2.weight"),
            read=_read,
            model_types=("aya_vision", "cohere2_vision"),
        ),
    )
