"""Gemma 3n's vision embedder."""

from __future__ import annotations

from typing import ClassVar

from ...blocks.core.block import Block
from ...blocks.norm_act import NormAct
from ...blocks.pointwise import Pointwise
from ...blocks.scale import Scale
from ..preset import Aliases, Preset
from ..stack import Stack
from ..upstream import Checkpoint, Match, Upstream

__all__ = ["Gemma3n"]


def _read(ckpt: Checkpoint) -> Match:
    out, in_ = ckpt.matrix("embedding_projection.weight")
    return Match(in_, out, {"eps": ckpt.setting("vision_config.rms_norm_eps", 1e-6)})


def _read_audio(ckpt: Checkpoint) -> Match:
    out, in_ = ckpt.matrix("embedding_projection.weight")
    eps = ckpt.setting("audio_config.rms_norm_eps", 1e-6)
    return Match(in_, out, {"eps": eps, "scale": False})


class Gemma3n(Preset):
    """``* sqrt(width) > RMS norm > Linear > RMS norm without weight`` on every token.

    Used by Gemma 3n, for sound without the scale.

    Source: huggingface/transformers, ``models/gemma3n/modeling_gemma3n.py``
    (`Gemma3nModel.get_image_features`, `Gemma3nMultimodalEmbedder`).

    Traps: the norms multiply their weight in fp32; the embedder's table of hard tokens is part
    of the language model.

    Attributes:
        eps: Of both norms.
        scale: Whether the features are scaled here, not by the caller.
    """

    eps: float = 1e-6
    scale: bool = True

    def expand(self, in_: int, out: int) -> Stack:
        first: tuple[Block, ...] = (Scale(by="root-channels"),)
        blocks = (
            *(first if self.scale else ()),
            NormAct(norm="rms", eps=self.eps, cast="after", act="none"),
            Pointwise(bias=False),
            NormAct(norm="rms", eps=self.eps, weight="none", act="none"),
        )
        return Stack(in_=in_, out=out, blocks=blocks)

    aliases: ClassVar[Aliases] = {"Gemma3nMultimodalEmbedder": {"scale": False}}
    models: ClassVar[Aliases] = {"Gemma 3n": {}}
    upstream = (
        Upstream(
            "gemma3n",
            ("soft_embedding_norm", "embedding_projection"),
            prefix="embed_vision",
            read=_read,
            model_types=("gemma3n",),
            prefixes=("embedding_projection.", "soft_embedding_norm."),
        ),
        Upstream(
            "gemma3n",
            ("soft_embedding_norm", "embedding_projection"),
            prefix="embed_audio",
            read=_read_audio,
            prefixes=("embedding_projection.", "soft_embedding_norm."),
            secondary=True,
            needs_prefix=True,
        ),
    )
