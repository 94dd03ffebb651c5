"""MiniMax-M3's projector."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal

from ...blocks.norm_act import NormAct
from ...blocks.patch_merge import PatchMerge
from ...blocks.pointwise import Pointwise
from ..preset import Aliases, Channels, Preset
from ..stack import Stack
from ..upstream import Checkpoint, Match, Upstream

__all__ = ["MiniMaxM3VL"]


def _reader(first: str, merged: str) -> Callable[[Checkpoint], Match]:
    def read(ckpt: Checkpoint) -> Match:
        ckpt.only("vision_config.spatial_merge_size", 2)  # "blocked" is always 2x2
        hidden, in_ = ckpt.matrix(f"{first}linear_1.weight")
        out, _ = ckpt.matrix(f"{merged}linear_2.weight")
        return Match(in_, out, {"hidden": None if hidden == out else hidden})

    return read


def _entry(layout: str, first: str, merged: str, prefix: str = "") -> Upstream:
    names = tuple(f"{path}linear_{step}" for path in (first, merged) for step in (1, 2))
    return Upstream(
        layout,
        names,
        prefix=prefix,
        read=_reader(first, merged),
        model_types=("minimax_m3_vl",),
        names_suffice=True,
        prefixes=tuple(f"{name}." for name in names),
    )


class MiniMaxM3VL(Preset):
    """``Linear > GELU > Linear > merge 2x2 (hwc) > Linear > GELU > Linear``; a quarter comes out.

    Used by MiniMax-M3.

    Source: huggingface/transformers, ``models/minimax_m3_vl/modeling_minimax_m3_vl.py``
    (`MiniMaxM3VLMultiModalProjector`).

    Traps: the merge is in the middle, where the tokens have the language model's width already. The
    two halves have different roots in its files, and the first alone looks like LLaVA's. The tokens
    arrive block by block.

    Attributes:
        hidden: The width inside both halves; None is the output width.
        token_order: The order of the input tokens: ``blocked`` or ``raster``.
    """

    hidden: Channels | None = None
    token_order: Literal["raster", "blocked"] = "blocked"

    def expand(self, in_: int, out: int) -> Stack:
        mlp = (
            Pointwise(out=self.hidden or "out"),
            NormAct(norm="none", act="gelu"),
            Pointwise(),
        )
        blocks = (*mlp, PatchMerge(), *mlp)
        return Stack(in_=in_, out=out, blocks=blocks, token_order=self.token_order)

    aliases: ClassVar[Aliases] = {"MiniMaxM3VLMultiModalProjector": {}}
    models: ClassVar[Aliases] = {"MiniMax-M3": {}}
    upstream = (
        _entry("minimax-m3-vl", "multi_modal_projector.", "patch_merge_mlp."),
        _entry("minimax-m3-vl-module", "", "merge_", "multi_modal_projector"),
    )
