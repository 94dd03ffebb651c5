"""One linear layer."""

from __future__ import annotations

from typing import ClassVar

from ...blocks.pointwise import Pointwise
from ..errors import CheckpointError
from ..preset import Aliases, Preset
from ..stack import Stack
from ..upstream import Checkpoint, Match, Upstream
from .minigpt_v2 import EVA_G

__all__ = ["Linear"]


def _read(ckpt: Checkpoint) -> Match:
    ckpt.check_type("linear|mlp1x_gelu", "linear")
    out, in_ = ckpt.matrix("weight")
    return Match(in_, out, {"bias": "bias" in ckpt.shapes})


def _read_paligemma(ckpt: Checkpoint) -> Match:
    out, in_ = ckpt.matrix("linear.weight")
    return Match(in_, out, {"bias": "linear.bias" in ckpt.shapes})


def _read_llama_proj(ckpt: Checkpoint) -> Match:
    match = _read(ckpt)
    if match.in_ == 4 * EVA_G:
        raise CheckpointError(
            f"an input of {match.in_}", "weight", "one token, not MiniGPT-v2's four"
        )
    return match


class Linear(Preset):
    """``Linear(in, out)`` on every token.

    Used by LLaVA 1.0 and PaliGemma.

    Source: haotian-liu/LLaVA, ``llava/model/multimodal_projector/builder.py``
    (`build_vision_projector`); Liu et al., "Visual Instruction Tuning", 2023.

    Attributes:
        bias: Whether the layer has a bias.
    """

    bias: bool = True

    def expand(self, in_: int, out: int) -> Stack:
        return Stack(in_=in_, out=out, blocks=(Pointwise(bias=self.bias),))

    aliases: ClassVar[Aliases] = {
        "paligemma": {},
        "Llama4MultiModalProjector": {"bias": False},
        "PaliGemmaMultiModalProjector": {},
        "Qwen2AudioMultiModalProjector": {},
    }
    models: ClassVar[Aliases] = {
        "ColPali": {},
        "DeepSeek-OCR 2": {},
        "LLaVA 1.0": {},
        "Llama 3.2 Vision": {},
        "PaliGemma": {},
        "PaliGemma 2": {},
        "Qwen2-Audio": {},
    }
    upstream = (
        Upstream(
            "linear",
            ("",),
            prefix=r"mm_projector|vision_projector|(?:connector\.)?_connector",
            read=_read,
        ),
        Upstream(
            "linear",
            ("",),
            prefix=r"multi_modal_projector|projector\.layers|perception\.proj",
            read=_read,
            model_types=("mllama", "deepseek_ocr2", "unlimited_ocr", "nemo_speechlm"),
        ),
        # MiniGPT-4's, after its Q-Former.
        Upstream(
            "linear",
            ("",),
            prefix="llama_proj",
            read=_read_llama_proj,
            needs_prefix=True,
        ),
        Upstream(
            "paligemma",
            ("linear",),
            prefix="multi_modal_projector",
            read=_read_paligemma,
            model_types=("paligemma", "qwen2_audio"),
            names_suffice=True,
        ),
    )
