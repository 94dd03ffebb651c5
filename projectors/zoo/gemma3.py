"""Gemma 3's projector."""

from __future__ import annotations

from typing import ClassVar

from ...blocks.norm_act import NormAct
from ...blocks.pointwise import Pointwise
from ...blocks.pool import Pool
from ..preset import Aliases, Preset, TokensBy, UpTo64
from ..stack import Stack
from ..upstream import Checkpoint, Match, Name, Upstream

__all__ = ["Gemma3"]


def _read(ckpt: Checkpoint) -> Match:
    in_, out = ckpt.matrix("mm_input_projection_weight")
    inner = "encoder." if ckpt.config.get("model_type") == "t5gemma2" else ""
    image = ckpt.setting(f"{inner}vision_config.image_size", 224)
    side = image // ckpt.setting(f"{inner}vision_config.patch_size", 16)
    tokens = round(ckpt.setting(f"{inner}mm_tokens_per_image", 256) ** 0.5)
    eps = ckpt.setting(f"{inner}vision_config.layer_norm_eps", 1e-6)
    return Match(in_, out, {"pool": side // tokens, "eps": eps})


class Gemma3(Preset):
    """``average pool s x s > RMS norm (1 + w) > Linear``; 1 token of s * s comes out.

    Used by Gemma 3 (4: 64x64 tokens to 16x16), T5Gemma 2, MedGemma, ShieldGemma 2.

    Source: huggingface/transformers, ``models/gemma3/modeling_gemma3.py``
    (`Gemma3MultiModalProjector`).

    Traps: the norm scales by 1 + w, in fp32, before it casts back; its eps is the vision
    tower's; the matrix is stored (in, out) and has no bias.

    Attributes:
        pool: The side s of the pooled windows.
        eps: Of the norm.
    """

    pool: UpTo64 = 4
    eps: float = 1e-6

    def expand(self, in_: int, out: int) -> Stack:
        blocks = (
            Pool(mode="avg", stride=self.pool),
            NormAct(norm="rms", eps=self.eps, weight="offset", cast="after", act="none"),
            Pointwise(bias=False),
        )
        return Stack(in_=in_, out=out, blocks=blocks)

    aliases: ClassVar[Aliases] = {
        "Gemma3MultiModalProjector": {},
        "T5Gemma2MultiModalProjector": {},
    }
    models: ClassVar[Aliases] = {
        "Gemma 3": {},
        "MedGemma": {},
        "ShieldGemma 2": {},
        "T5Gemma 2": {},
    }
    tokens_by: ClassVar[TokensBy] = {"pool": range(1, 65)}
    upstream = (
        Upstream(
            "gemma3",
            ("mm_soft_emb_norm", Name("mm_input_projection_weight", "matrix")),
            prefix="multi_modal_projector",
            tensors=("mm_input_projection_weight",),
            read=_read,
            model_types=("gemma3", "shieldgemma2", "t5gemma2"),
        ),
    )
