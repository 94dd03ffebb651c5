"""PerceptionLM's projector: an MLP with a pool behind it."""

from __future__ import annotations

from typing import ClassVar

from ...blocks.pool import Pool
from ..preset import MERGES, Aliases, Preset, TokensBy, UpTo16
from ..stack import Stack
from ..upstream import Checkpoint, Match, Upstream
from .mlp import Mlp

__all__ = ["PerceptionLM"]


def _read(ckpt: Checkpoint) -> Match:
    out, in_ = ckpt.matrix("linear_1.weight")
    return Match(in_, out, {"ratio": ckpt.setting("projector_pooling_ratio", 1)})


class PerceptionLM(Preset):
    """``Linear > GELU > Linear > adaptive average pool``; 1 token of r * r comes out.

    Used by PerceptionLM.

    Source: huggingface/transformers, ``models/perception_lm/modeling_perception_lm.py``
    (`PerceptionLMMultiModalProjector`); Cho et al., "PerceptionLM", 2025.

    Traps: the pool goes to side // r, so its windows overlap where r does not divide the side;
    with r = 1 there is none.

    Attributes:
        ratio: How many times fewer tokens each way, r.
    """

    ratio: UpTo16 = 2

    def expand(self, in_: int, out: int) -> Stack:
        pool = (Pool(mode="adaptive", stride=self.ratio),) if self.ratio > 1 else ()
        return Stack(in_=in_, out=out, blocks=(*Mlp().expand(in_, out).blocks, *pool))

    aliases: ClassVar[Aliases] = {"PerceptionLMMultiModalProjector": {}}
    models: ClassVar[Aliases] = {"PerceptionLM": {}}
    tokens_by: ClassVar[TokensBy] = {"ratio": MERGES}
    upstream = (
        Upstream(
            "llava",
            ("linear_1", "linear_2"),
            prefix="multi_modal_projector",
            read=_read,
            model_types=("perception_lm",),
        ),
    )
