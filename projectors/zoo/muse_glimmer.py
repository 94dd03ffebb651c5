"""Muse Glimmer's adapter and projection."""

from __future__ import annotations

from typing import ClassVar

from ...blocks.core.activation import Act
from ...blocks.norm_act import Eps, NormAct
from ...blocks.patch_merge import PatchMerge
from ...blocks.pointwise import Pointwise
from ..preset import MERGES, Aliases, Channels, Preset, TokensBy, UpTo16
from ..stack import Stack
from ..upstream import Checkpoint, Match, Upstream

__all__ = ["MuseGlimmer"]


def _read(ckpt: Checkpoint) -> Match:
    merge = ckpt.option("merge", "vision_config.merge_size", 2)
    hidden, wide = ckpt.matrix("vision_adapter.fc1.weight")
    options = {
        "merge": merge,
        "hidden": hidden,
        "act": ckpt.act(),
        "eps": ckpt.setting("text_config.rms_norm_eps", 1e-5),
    }
    return Match(wide // merge**2, ckpt.matrix("vision_projection.weight")[0], options)


class MuseGlimmer(Preset):
    """``merge 2x2 (chw) > [Linear > GELU] x 2 > Linear > RMS norm without weight``; a quarter.

    Used by Muse Glimmer and Muse Spark.

    Source: huggingface/transformers, ``models/muse_glimmer/modeling_muse_glimmer.py``
    (`MuseGlimmerVisionAdapter`, `MuseGlimmerModel`).

    Traps: no biases; a GELU after the second layer too. The merge is part of upstream's tower, and
    sorts by channel.

    Attributes:
        merge: The side of the merged windows.
        hidden: The width of the two inner layers.
        act: The activation; ``gelu`` is the exact form.
        eps: Of the norm.
    """

    merge: UpTo16 = 2
    hidden: Channels = 4096
    act: Act = "gelu"
    eps: Eps = 1e-5

    def expand(self, in_: int, out: int) -> Stack:
        inner = Pointwise(out=self.hidden, bias=False)
        act = NormAct(norm="none", act=self.act)
        blocks = (
            PatchMerge(size=(self.merge, self.merge), order="chw"),
            *(inner, act, inner, act),
            Pointwise(bias=False),
            NormAct(norm="rms", eps=self.eps, weight="none", act="none"),
        )
        return Stack(in_=in_, out=out, blocks=blocks)

    aliases: ClassVar[Aliases] = {"muse-spark": {}}
    models: ClassVar[Aliases] = {
        "Muse Glimmer": {},
        "Muse Spark": {},
        # Without the merge and the last layer it is no projector by itself.
        "MuseGlimmerVisionAdapter": {},
    }
    tokens_by: ClassVar[TokensBy] = {"merge": MERGES}
    upstream = (
        Upstream(
            "muse-glimmer",
            ("vision_adapter.fc1", "vision_adapter.fc2", "vision_projection"),
            prefix="model",
            read=_read,
            model_types=("muse_glimmer", "muse_spark"),
            prefixes=("vision_adapter.", "vision_projection."),
        ),
    )
