"""ERNIE 4.5 VL's resampler, on images."""

from __future__ import annotations

from typing import ClassVar, Literal

from ...blocks.identity import Identity
from ...blocks.norm_act import Eps, NormAct
from ...blocks.parallel import Parallel
from ...blocks.patch_merge import PatchMerge
from ...blocks.pointwise import Pointwise
from ..preset import Aliases, Preset
from ..stack import Stack
from ..upstream import Checkpoint, Match, Upstream

__all__ = ["Ernie45VL"]


def _read(ckpt: Checkpoint) -> Match:
    ckpt.only("vision_config.spatial_merge_size", 2)  # "blocked" is always 2x2
    ckpt.only("vision_config.temporal_merge_size", 2)
    options = {
        "eps": ckpt.setting("vision_config.rms_norm_eps", 1e-6),
        "out_eps": ckpt.setting("text_config.rms_norm_eps", 1e-5),
    }
    out, wide = ckpt.matrix("mlp.weight")
    return Match(wide // 4, out, options)


def _entry(layout: str, *parts: str) -> Upstream:
    mlps = [f"{mlp}_linear.{part}" for mlp in ("spatial", "temporal") for part in parts]
    return Upstream(
        layout,
        (*mlps, "mlp", "after_norm"),
        prefix="resampler_model",
        read=_read,
        model_types=("ernie4_5_vl_moe", "ernie4_5_moe_vl"),
    )


class Ernie45VL(Preset):
    """``merge 2x2 > MLP > LN > [the same twice, side by side] > MLP > LN > Linear > RMS norm``.

    Used by ERNIE 4.5 VL, on images. Each MLP is ``Linear > GELU > Linear``, as wide as four tokens.

    Source: huggingface/transformers, ``models/ernie4_5_vl_moe/modeling_ernie4_5_vl_moe.py``
    (`Ernie4_5_VLMoeVariableResolutionResamplerModel`).

    Traps: the second MLP joins two frames of a video; an image is its own second frame. The LNs'
    eps is the tower's `rms_norm_eps`. The tokens arrive block by block.

    Attributes:
        eps: Of both layer norms.
        out_eps: Of the RMS norm at the end.
        token_order: The order of the input tokens: ``blocked`` or ``raster``.
    """

    eps: Eps = 1e-6
    out_eps: Eps = 1e-5
    token_order: Literal["raster", "blocked"] = "blocked"

    def expand(self, in_: int, out: int) -> Stack:
        inner, gelu = Pointwise(out=4 * in_), NormAct(norm="none", act="gelu")
        mlp = (inner, gelu, inner, NormAct(norm="layer", eps=self.eps, act="none"))
        frames = Parallel(join="cat", branches=((Identity(),), (Identity(),)))
        last = NormAct(norm="rms", eps=self.out_eps, act="none")
        blocks = (PatchMerge(), *mlp, frames, *mlp, Pointwise(), last)
        return Stack(in_=in_, out=out, blocks=blocks, token_order=self.token_order)

    aliases: ClassVar[Aliases] = {"Ernie4_5_VLMoeVariableResolutionResamplerModel": {}}
    models: ClassVar[Aliases] = {"ERNIE 4.5 VL": {}}
    upstream = (
        _entry("ernie4-5-vl", "0", "2", "3"),
        _entry("ernie4-5-vl-module", "fc1", "fc2", "ln"),
    )
