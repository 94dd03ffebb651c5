"""NVILA-Lite's projector."""

from __future__ import annotations

from typing import ClassVar

from ...blocks.norm_act import NormAct
from ...blocks.patch_merge import PatchMerge
from ...blocks.pointwise import Pointwise
from ..preset import Aliases, Preset
from ..stack import Stack
from ..upstream import Checkpoint, Match, Upstream

__all__ = ["NvilaLite"]


def _read(ckpt: Checkpoint) -> Match:
    ckpt.only("mm_projector_type", "mlp_downsample_3x3_fix", default=None)
    _, wide = ckpt.matrix("layers.2.weight")
    return Match(wide // 9, ckpt.matrix("layers.7.weight")[0])


class NvilaLite(Preset):
    """``merge 3x3 (hwc) > LN > Linear(3 in) > GELU > LN > Linear > GELU > Linear``: 1 of 9 tokens.

    Used by NVILA-Lite (``mlp_downsample_3x3_fix``); NVILA itself is `nvila`.

    Source: NVlabs/VILA, ``llava/model/multimodal_projector/base_projector.py``
    (`MultimodalProjector`); Liu et al., "NVILA", 2024.

    Traps: zeros are padded below and to the right of sides that 3 does not divide; the first linear
    layer's width is three times the *input's*.
    """

    def expand(self, in_: int, out: int) -> Stack:
        norm = NormAct(norm="layer", eps=1e-5, act="none")
        gelu = NormAct(norm="none", act="gelu")
        blocks = (
            PatchMerge(size=(3, 3), odd="pad"),
            norm,
            Pointwise(out=3 * in_),
            gelu,
            norm,
            Pointwise(),
            gelu,
            Pointwise(),
        )
        return Stack(in_=in_, out=out, blocks=blocks)

    aliases: ClassVar[Aliases] = {"mlp_downsample_3x3_fix": {}}
    models: ClassVar[Aliases] = {"NVILA-Lite": {}}
    upstream = (
        Upstream(
            "nvila-lite",
            ("layers.1", "layers.2", "layers.4", "layers.5", "layers.7"),
            prefix="mm_projector|vision_projector",
            tensors=("layers.1.weight", "layers.7.weight"),
            read=_read,
            model_types=("v2l_projector", "vila"),
        ),
    )
