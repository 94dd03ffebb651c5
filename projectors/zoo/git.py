"""GIT's projection."""

from __future__ import annotations

from typing import ClassVar, Literal

from ...blocks.norm_act import Eps, NormAct
from ...blocks.pointwise import Pointwise
from ..preset import Aliases, Preset
from ..stack import Stack
from ..upstream import Checkpoint, Match, Upstream

__all__ = ["Git"]


def _read(ckpt: Checkpoint) -> Match:
    out, in_ = ckpt.matrix("visual_projection.0.weight")
    return Match(in_, out, {"eps": ckpt.setting("vision_config.layer_norm_eps", 1e-5)})


def _read_muse_spark_audio(ckpt: Checkpoint) -> Match:
    out, in_ = ckpt.matrix("proj.weight")
    return Match(in_, out, {"norm": "rms", "eps": ckpt.setting("audio_config.rms_norm_eps", 1e-5)})


class Git(Preset):
    """``Linear > norm`` on every token.

    Used by GIT and, with an RMS norm, for the sound of Muse Spark.

    Source: huggingface/transformers, ``models/git/modeling_git.py`` (`GitProjection`); Wang et al.,
    "GIT", 2022.

    Traps: the norm's eps is the vision tower's. On a video, the model adds a vector to each frame's
    features before.

    Attributes:
        norm: What follows the linear layer: ``layer`` or ``rms``.
        eps: Of the norm.
    """

    norm: Literal["layer", "rms"] = "layer"
    eps: Eps = 1e-5

    def expand(self, in_: int, out: int) -> Stack:
        norm = NormAct(norm=self.norm, eps=self.eps, act="none")
        return Stack(in_=in_, out=out, blocks=(Pointwise(), norm))

    aliases: ClassVar[Aliases] = {"GitProjection": {}}
    models: ClassVar[Aliases] = {"GIT": {}}
    upstream = (
        Upstream(
            "git",
            ("visual_projection.0", "visual_projection.1"),
            prefix="visual_projection",
            read=_read,
            model_types=("git",),
        ),
        Upstream(
            "muse-spark-audio",
            ("proj", "post_proj_norm"),
            prefix="audio_tower",
            read=_read_muse_spark_audio,
            model_types=("muse_spark",),
            prefixes=("proj.", "post_proj_norm."),
            secondary=True,
        ),
    )
