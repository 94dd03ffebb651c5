"""Mistral 3's projector."""

from __future__ import annotations

from typing import ClassVar

from ...blocks.core.activation import Act
from ...blocks.norm_act import NormAct
from ...blocks.patch_merge import PatchMerge
from ...blocks.pointwise import Pointwise
from ..preset import MERGES, Aliases, Preset, TokensBy, UpTo16
from ..stack import Stack
from ..upstream import Checkpoint, Match, Upstream

__all__ = ["Mistral3"]


# Language models whose norms' eps is 1e-5 if their config does not say; it is 1e-6 in others.
_EPS_1E5 = ("ministral3", "mistral_large4_text")


def _read(ckpt: Checkpoint) -> Match:
    norm, first, last = "norm", "linear_1", "linear_2"
    if ckpt.config["model_type"] == "mistral_large4":
        norm, adapter = "pre_mm_projector_norm", "vision_language_adapter"
        first, last = f"{adapter}.w_in", f"{adapter}.w_out"
    eps = 1e-5 if ckpt.setting("text_config.model_type", "") in _EPS_1E5 else 1e-6
    options = {
        "merge": ckpt.setting("spatial_merge_size", 2),
        "eps": ckpt.setting("text_config.rms_norm_eps", eps),
        "act": "gelu" if ckpt.config["model_type"] == "lighton_ocr" else ckpt.act(),
        "bias": f"{first}.bias" in ckpt.shapes,
    }
    return Match(ckpt.shapes[f"{norm}.weight"][0], ckpt.matrix(f"{last}.weight")[0], options)


class Mistral3(Preset):
    """``RMS norm > merge 2x2 (chw) > Linear(in) > Linear > GELU > Linear``; a quarter comes out.

    Used by Mistral Small 3.1 and later, LightOnOCR.

    Source: huggingface/transformers, ``models/mistral3/modeling_mistral3.py``
    (`Mistral3MultiModalProjector`).

    Traps: the merge is an unfold, so channels are ordered channel by channel and an odd last row or
    column is dropped; the norm's eps is the *text* model's; no biases unless asked for.

    Attributes:
        merge: The side of the merged windows.
        eps: Of the norm.
        act: The activation; ``gelu`` is the exact form.
        bias: Whether the last two linear layers have biases.
    """

    merge: UpTo16 = 2
    eps: float = 1e-5
    act: Act = "gelu"
    bias: bool = False

    def expand(self, in_: int, out: int) -> Stack:
        blocks = (
            NormAct(norm="rms", eps=self.eps, act="none"),
            PatchMerge(size=(self.merge, self.merge), order="chw", odd="drop"),
            Pointwise(out="in", bias=False),
            Pointwise(bias=self.bias),
            NormAct(norm="none", act=self.act),
            Pointwise(bias=self.bias),
        )
        return Stack(in_=in_, out=out, blocks=blocks)

    aliases: ClassVar[Aliases] = {
        "LightOnOcrMultiModalProjector": {"eps": 1e-6},
        "Mistral3MultiModalProjector": {},
        "MistralLarge4MultiModalProjector": {},
    }
    models: ClassVar[Aliases] = {
        "LightOnOCR": {"eps": 1e-6},
        "Mistral Large 4": {},
        "Mistral Small 3.1": {},
        "Mistral Small 3.2": {},
    }
    tokens_by: ClassVar[TokensBy] = {"merge": MERGES}
    upstream = (
        Upstream(
            "mistral3",
            ("norm", "patch_merger.merging_layer", "linear_1", "linear_2"),
            prefix="multi_modal_projector|vision_projection",
            read=_read,
            model_types=("mistral3", "lighton_ocr"),
        ),
        Upstream(
            "mistral-large4",
            (
                "pre_mm_projector_norm",
                "patch_merger.merging_layer",
                "vision_language_adapter.w_in",
                "vision_language_adapter.w_out",
            ),
            tensors=("patch_merger.merging_layer.weight", "pre_mm_projector_norm.weight"),
            read=_read,
            model_types=("mistral_large4",),
            prefixes=("patch_merger.", "pre_mm_projector_norm.", "vision_language_adapter."),
        ),
    )
