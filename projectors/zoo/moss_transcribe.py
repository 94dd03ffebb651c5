"""MOSS-Transcribe-Diarize's projector of sound."""

from __future__ import annotations

from typing import ClassVar

from ...blocks.core.activation import Act
from ...blocks.norm_act import Eps, NormAct
from ...blocks.patch_merge import PatchMerge
from ..preset import Aliases, Preset, UpTo64
from ..stack import Stack
from ..upstream import Checkpoint, Match, Upstream
from .mlp import Mlp

__all__ = ["MossTranscribe"]


def _read(ckpt: Checkpoint) -> Match:
    frames = ckpt.option("frames", "audio_merge_size", 4)
    out, wide = ckpt.matrix("linear_1.weight")
    options = {
        "frames": frames,
        "act": ckpt.act(default="silu"),
        "bias": "linear_1.bias" in ckpt.shapes,
        "eps": ckpt.setting("text_config.rms_norm_eps", 1e-6),
    }
    return Match(wide // frames, out, options)


class MossTranscribe(Preset):
    """``stack 4 frames > Linear > SiLU > Linear > LN``; 1 token of 4 comes out.

    Used by MOSS-Transcribe-Diarize.

    Source: huggingface/transformers,
    ``models/moss_transcribe_diarize/modeling_moss_transcribe_diarize.py``
    (`MossTranscribeDiarizeMultiModalProjector`).

    Traps: the frames are a grid of one row, ``grid=(1, n)``; the model pads each piece of sound to
    whole stacks before. The layer norm's eps is the language model's.

    Attributes:
        frames: How many frames are stacked into one token.
        act: The activation.
        bias: Whether the linear layers have biases.
        eps: Of the norm.
    """

    frames: UpTo64 = 4
    act: Act = "silu"
    bias: bool = True
    eps: Eps = 1e-6

    def expand(self, in_: int, out: int) -> Stack:
        mlp = Mlp(act=self.act, bias=self.bias).expand(in_, out).blocks
        norm = NormAct(norm="layer", eps=self.eps, act="none")
        return Stack(in_=in_, out=out, blocks=(PatchMerge(size=(1, self.frames)), *mlp, norm))

    aliases: ClassVar[Aliases] = {"MossTranscribeDiarizeMultiModalProjector": {}}
    models: ClassVar[Aliases] = {"MOSS-Transcribe-Diarize": {}}
    upstream = (
        Upstream(
            "moss-transcribe",
            ("linear_1", "linear_2", "norm"),
            prefix="multi_modal_projector",
            read=_read,
            model_types=("moss_transcribe_diarize",),
        ),
    )
