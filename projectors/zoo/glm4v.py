"""GLM-4.1V's downsampling and merger."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from ...blocks.glu import Glu
from ...blocks.norm_act import NormAct
from ...blocks.patch_merge import PatchMerge
from ...blocks.pointwise import Pointwise
from ..preset import Aliases, Channels, Preset
from ..stack import Stack
from ..upstream import Checkpoint, Match, Name, Upstream

__all__ = ["Glm4v"]


def _read(ckpt: Checkpoint) -> Match:
    ckpt.only("vision_config.spatial_merge_size", 2)  # "blocked" is always 2x2
    ckpt.only("vision_config.hidden_act", "silu")
    hidden, out = ckpt.matrix("merger.gate_proj.weight")
    options = {"eps": ckpt.setting("vision_config.rms_norm_eps", 1e-5), "hidden": hidden}
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
        eps: Of the RMS norm.
        hidden: The inner width of the SwiGLU; None is the output width.
        limit: GLM5-Next's clamp.
        token_order: The order of the input tokens: ``blocked`` or ``raster``.
    """

    eps: float = 1e-5
    hidden: Channels | None = None
    limit: Annotated[float, Field(gt=0)] | None = None
    token_order: Literal["raster", "blocked"] = "blocked"

    def expand(self, in_: int, out: int) -> Stack:
        blocks = (
            NormAct(norm="rms", eps=self.eps, act="none"),
            PatchMerge(order="chw"),
            Pointwise(),
            Pointwise(bias=False),
            NormAct(norm="layer", eps=1e-5, act="gelu"),
            Glu(out=self.hidden or "out", act="silu", bias=False, limit=self.limit),
            Pointwise(bias=False),
        )
        return Stack(in_=in_, out=out, blocks=blocks, token_order=self.token_order)

    aliases: ClassVar[Aliases] = {
        "Glm4vMoeVisionPatchMerger": {},
        "Glm4vVisionPatchMerger": {},
        "Glm5NextVisionPatchMerger": {"limit": 10.0},
        "GlmOcrVisionPatchMerger": {},
    }
    models: ClassVar[Aliases] = {
        "GLM-4.1V": {},
        "GLM-4.5V": {},
        "GLM-4.6V": {},
        "GLM-OCR": {},
        "GLM5-Next": {"limit": 10.0},
    }
    upstream = (
        Upstream(
            "glm4v",
            (
                "post_layernorm",
                Name("downsample", "conv", (2, 2)),
                "merger.proj",
                "merger.post_projection_norm",
                "merger.gate_proj",
                "merger.up_proj",
                "merger.down_proj",
            ),
            prefix="visual",
            tensors=("merger.proj.weight", "post_layernorm.weight", "downsample.weight"),
            read=_read,
            model_types=("glm4v", "glm4v_moe", "glm46v", "glmga", "glm_ocr", "glm5_next"),
            prefixes=("merger.", "post_layernorm.", "downsample."),
        ),
    )
