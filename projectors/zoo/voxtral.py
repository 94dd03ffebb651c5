"""Voxtral's and GLM-ASR's audio projector."""

from __future__ import annotations

from typing import ClassVar

from ...blocks.core.activation import Act
from ...blocks.core.feature import Width
from ...blocks.norm_act import NormAct
from ...blocks.patch_merge import PatchMerge
from ...blocks.pointwise import Pointwise
from ..preset import Aliases, Preset, TokensBy, UpTo64
from ..stack import Stack
from ..upstream import Checkpoint, Match, Upstream

__all__ = ["Voxtral"]


def _read(ckpt: Checkpoint) -> Match:
    hidden, wide = ckpt.matrix("linear_1.weight")
    if "frames" in ckpt.given:
        frames = ckpt.given["frames"]
        in_ = wide // frames
    else:
        in_ = ckpt.setting("audio_config.hidden_size", 1280)
        frames = wide // in_
    options = {
        "frames": frames,
        "hidden": hidden,
        "act": ckpt.act(),
        "bias": "linear_1.bias" in ckpt.shapes,
    }
    return Match(in_, ckpt.matrix("linear_2.weight")[0], options)


class Voxtral(Preset):
    """``stack 4 frames > Linear > GELU > Linear``; 1 token of 4 comes out.

    Used by Voxtral and, with an inner width of its own and biases, GLM-ASR.

    Source: huggingface/transformers, ``models/voxtral/modeling_voxtral.py``
    (`VoxtralMultiModalProjector`); Liu et al., "Voxtral", 2025.

    Traps: no biases; frames are a grid of one row, ``grid=(1, n)``.

    Attributes:
        frames: How many frames are stacked into one token.
        hidden: The inner width.
        act: The activation; ``gelu`` is the exact form.
        bias: Whether the linear layers have biases.
    """

    frames: UpTo64 = 4
    hidden: Width = "out"
    act: Act = "gelu"
    bias: bool = False

    def expand(self, in_: int, out: int) -> Stack:
        blocks = (
            PatchMerge(size=(1, self.frames)),
            Pointwise(out=self.hidden, bias=self.bias),
            NormAct(norm="none", act=self.act),
            Pointwise(bias=self.bias),
        )
        return Stack(in_=in_, out=out, blocks=blocks)

    aliases: ClassVar[Aliases] = {
        "GlmAsrMultiModalProjector": {"bias": True},
        "VoxtralMultiModalProjector": {},
        "VoxtralRealtimeMultiModalProjector": {},
    }
    models: ClassVar[Aliases] = {"GLM-ASR": {"bias": True}, "Voxtral": {}}
    tokens_by: ClassVar[TokensBy] = {"frames": range(1, 65)}
    upstream = (
        Upstream(
            "llava",
            ("linear_1", "linear_2"),
            prefix="multi_modal_projector",
            read=_read,
            model_types=("voxtral", "voxtral_realtime", "glmasr"),
        ),
    )
