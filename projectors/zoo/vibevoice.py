"""VibeVoice's connectors."""

from __future__ import annotations

from typing import ClassVar

from ...blocks.norm_act import NormAct
from ...blocks.pointwise import Pointwise
from ..preset import Aliases, Preset
from ..stack import Stack
from ..upstream import Checkpoint, Match, Upstream

__all__ = ["VibeVoice"]


def _read(ckpt: Checkpoint) -> Match:
    out, in_ = ckpt.matrix("linear_1.weight")
    return Match(in_, out)


class VibeVoice(Preset):
    """``Linear > RMS norm > Linear`` on every token.

    Used by VibeVoice, for acoustic and for semantic latents of sound.

    Source: huggingface/transformers, ``models/vibevoice/modeling_vibevoice.py``
    (`VibeVoiceMultiModalProjector`); Peng et al., "VibeVoice Technical Report", 2025.

    Traps: there is no activation; upstream's `act` is the norm, whose eps is 1e-6.
    """

    def expand(self, in_: int, out: int) -> Stack:
        norm = NormAct(norm="rms", eps=1e-6, act="none")
        return Stack(in_=in_, out=out, blocks=(Pointwise(), norm, Pointwise()))

    aliases: ClassVar[Aliases] = {"VibeVoiceMultiModalProjector": {}}
    models: ClassVar[Aliases] = {"VibeVoice": {}}
    upstream = (
        Upstream(
            "vibevoice",
            ("linear_1", "act", "linear_2"),
            prefix="multi_modal_projector",
            read=_read,
            model_types=("vibevoice",),
        ),
        Upstream(
            "vibevoice",
            ("linear_1", "act", "linear_2"),
            prefix="semantic_connector",
            read=_read,
            secondary=True,
            needs_prefix=True,
        ),
    )
