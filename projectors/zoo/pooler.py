"""LLaVA-NeXT's pooler."""

from __future__ import annotations

from typing import ClassVar

from ...blocks.norm_act import NormAct
from ...blocks.patch_merge import PatchMerge
from ...blocks.pointwise import Pointwise
from ..preset import MERGES, Aliases, Preset, TokensBy, UpTo16
from ..stack import Stack
from ..upstream import Checkpoint, Match, Name, Upstream

__all__ = ["Pooler"]


def _names(stack: Stack) -> list[str | Name]:
    [merge] = [block for block in stack.blocks if isinstance(block, PatchMerge)]
    return [Name("conv_pool", "conv", merge.size), "proj.1"]


def _read(ckpt: Checkpoint) -> Match:
    out, in_, stride, _ = ckpt.shapes["conv_pool.weight"]
    return Match(in_, out, {"stride": stride})


class Pooler(Preset):
    """``conv s x s of stride s > GELU > Linear``; 1 token of s * s comes out.

    Used by LLaVA-NeXT, as its type ``pooler``.

    Source: LLaVA-VL/LLaVA-NeXT, ``llava/model/multimodal_projector/pooler_projector.py``
    (`PoolerProjector`).

    Traps: the convolution is a merge with order ``chw`` and a linear layer; an odd last row or
    column is dropped.

    Attributes:
        stride: The side s of the windows.
    """

    stride: UpTo16 = 2

    def expand(self, in_: int, out: int) -> Stack:
        blocks = (
            PatchMerge(size=(self.stride, self.stride), order="chw", odd="drop"),
            Pointwise(),
            NormAct(norm="none", act="gelu"),
            Pointwise(),
        )
        return Stack(in_=in_, out=out, blocks=blocks)

    aliases: ClassVar[Aliases] = {"PoolerProjector": {}}
    tokens_by: ClassVar[TokensBy] = {"stride": MERGES}
    upstream = (
        Upstream(
            "pooler",
            _names,
            prefix="mm_projector|vision_projector",
            tensors=("conv_pool.weight", "proj.1.weight"),
            read=_read,
        ),
    )
