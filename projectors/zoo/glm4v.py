"""GLM-4.1V's downsampling and merger."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from ...blocks.core.activation import Act
from ...blocks.glu import Glu
from ...blocks.norm_act import NormAct
from ...blocks.patch_merge import PatchMerge
from ...blocks.pointwise import Pointwise
from ..preset import MERGES, Aliases, Channels, Preset, TokensBy, UpTo16, token_order
from ..stack import Stack
from ..upstream import Checkpoint, Match, Name, Upstream

__all__ = ["Glm4v"]


def _names(stack: Stack) -> list[str | Name]:
    [merge] = [block for block in stack.blocks if isinstance(block, PatchMerge)]
    parts = ("proj", "post_projection_norm", "gate_proj", "up_proj", "down_proj")
    first: list[str | Name] = ["post_layernorm", Name("downsample", "conv", merge.size)]
    return [*first, *(f"merger.{part}" for part in parts)]


def _read(ckpt: Checkpoint) -> Match:
    hidden, out = ckpt.matrix("merger.gate_proj.weight")
    options = {
        "merge": ckpt.setting("vision_config.spatial_merge_size", 2),
        "eps": ckpt.setting("vision_config.rms_norm_eps", 1e-5),
        "act": ckpt.act("vision_config.hidden_act", "silu"),
        "hidden": hidden,
    }
    if ckpt.config.get("model_type") == "glm5_next":
        options["limit"] = ckpt.setting("vision_config.swiglu_limit", 10.0)
    return Match(ckpt.shapes["post_layernorm.weight"][0], out, options)


class Glm4v(Preset):
    """``RMS norm > 2x2 conv of stride 2 > Linear > LN > GELU > SwiGLU``; a quarter comes out.

    Used by GLM-4.1V, 4.5V, 4.6V and GLM-OCR; GLM5-Next clamps its SwiGLU (`limit`).

    Source: huggingface/transformers, ``models/glm4v/modeling_glm4v.py`` (`Glm4vVisionModel`,
    `Glm4vVisionPatchMerger`).

    Traps: the convolution is a merge with order ``chw`` and a linear layer with bias, all others
    have none; norm and convolution are part of upstream's tower; the tokens arrive block by block.

    Attributes:
        merge: The side of the merged windows.
        eps: Of the RMS norm.
        act: The activation of the SwiGLU's gate.
        hidden: The inner width of the SwiGLU; None is the output width.
        limit: GLM5-Next's clamp.
        token_order: The order of the input tokens: ``blocked``, window by window, or ``raster``.
    """

    merge: UpTo16 = 2
    eps: float = 1e-5
    act: Act = "silu"
    hidden: Channels | None = None
    limit: Annotated[float, Field(gt=0)] | None = None
    token_order: Literal["raster", "blocked"] = "blocked"

    def expand(self, in_: int, out: int) -> Stack:
        blocks = (
            NormAct(norm="rms", eps=self.eps, act="none"),
            PatchMerge(size=(self.merge, self.merge), order="chw"),
            Pointwise(),
            Pointwise(bias=False),
            NormAct(norm="layer", eps=1e-5, act="gelu"),
            Glu(out=self.hidden or "out", act=self.act, bias=False, limit=self.limit),
            Pointwise(bias=False),
        )
        order = token_order(self.token_order, self.merge)
        return Stack(in_=in_, out=out, blocks=blocks, token_order=order)

    models: ClassVar[Aliases] = {
        "GLM-4.1V": {},
        "GLM-4.5V": {},
        "GLM-4.6V": {},
        "GLM-OCR": {},
        "GLM5-Next": {"limit": 10.0},
        # Their last part, which these classes compute, is no projector by itself.
        "Glm4vMoeVisionPatchMerger": {},
        "Glm4vVisionPatchMerger": {},
        "Glm5NextVisionPatchMerger": {"limit": 10.0},
        "GlmOcrVisionPatchMerger": {},
    }
    tokens_by: ClassVar[TokensBy] = {"merge": MERGES}
    upstream = (
        Upstream(
            "glm4v",
            _names,
            prefix="visual",
            tensors=("merger.proj.weight", "post_layernorm.weight", "downsample.weight"),
            read=_read,
            model_types=("glm4v", "glm4v_moe", "glm46v", "glmga", "glm_ocr", "glm5_next"),
            prefixes=("merger.", "post_layernorm.", "downsample."),
        ),
    )
